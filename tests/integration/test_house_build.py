"""The build tells what it lacks, the sdist holds what a build needs, the import stays light."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(*command: str, cwd: Path = ROOT, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=300,
        check=False,
    )


def build(scratch: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Start a build that must not get as far as compiling; leave nothing in the tree."""
    places = ["--build-lib", str(scratch / "lib"), "--build-temp", str(scratch / "temp")]
    return run(sys.executable, "setup.py", "-q", "build_ext", "--force", *places, **env)


def test_all_missing_headers_are_told_at_once(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    overrides = {
        "COGCACHE_ZSTD_INCLUDEDIR": str(empty),
        "COGCACHE_XXHASH_INCLUDEDIR": str(empty),
    }
    answer = build(tmp_path, **overrides)
    assert answer.returncode != 0
    for header in ("zstd.h", "xxhash.h"):
        assert re.search(rf"- {header} .*not found.*_INCLUDEDIR={empty}", answer.stderr)
    for manager in ("apt-get install", "dnf install", "apk add", "brew install", "conda install"):
        assert manager in answer.stderr
    assert "Traceback" not in answer.stderr
    assert "#include" not in answer.stderr
    assert "fatal error" not in answer.stderr
    assert not (tmp_path / "temp").exists()


def test_headers_without_a_library_are_told(tmp_path: Path) -> None:
    include = tmp_path / "include"
    include.mkdir()
    include.joinpath("zstd.h").write_text(
        "#define ZSTD_VERSION_NUMBER 10507\n#define ZSTD_versionNumber no_such_function\n"
        "unsigned no_such_function(void);\n"
    )
    answer = build(tmp_path, COGCACHE_ZSTD_INCLUDEDIR=str(include))
    assert answer.returncode != 0
    assert "libzstd: headers found, but a program does not link" in answer.stderr
    assert "xxhash.h of" not in answer.stderr


def test_a_library_that_is_too_old_is_told(tmp_path: Path) -> None:
    include = tmp_path / "include"
    include.mkdir()
    include.joinpath("zstd.h").write_text("#define ZSTD_VERSION_NUMBER 10300\n")
    include.joinpath("xxhash.h").write_text("#define XXH_VERSION_NUMBER 704\n")
    overrides = {
        "COGCACHE_ZSTD_INCLUDEDIR": str(include),
        "COGCACHE_XXHASH_INCLUDEDIR": str(include),
    }
    answer = build(tmp_path, **overrides)
    assert answer.returncode != 0
    assert "libzstd: older than 1.4.0" in answer.stderr
    assert "libxxhash: older than 0.8.0" in answer.stderr


def test_a_missing_compiler_is_told_with_the_headers(tmp_path: Path) -> None:
    empty = str(tmp_path)
    answer = build(tmp_path, CC="/no/such/compiler", COGCACHE_ZSTD_INCLUDEDIR=empty)
    assert answer.returncode != 0
    assert "a C compiler: `/no/such/compiler` does not build a program" in answer.stderr
    assert "zstd.h of libzstd: not found" in answer.stderr


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The names in an sdist made from a copy of the tree, as the build back end makes it."""
    folder = tmp_path_factory.mktemp("sdist")
    tree = folder / "tree"
    skip = shutil.ignore_patterns(
        ".*", "build", "dist", "*.so", "__pycache__", "*.egg-info", "data"
    )
    shutil.copytree(ROOT, tree, ignore=skip)
    make = f"import setuptools.build_meta as back; back.build_sdist({str(folder)!r})"
    answer = run(sys.executable, "-W", "ignore", "-c", make, cwd=tree)
    assert answer.returncode == 0, answer.stderr
    [archive] = folder.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        return {name.partition("/")[2] for name in tar.getnames()}


def test_the_sdist_holds_what_a_build_needs(sdist: set[str]) -> None:
    sources = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("csrc/*/*.[ch]")}
    package = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("cogcache/**/*.py*")}
    package = {name for name in package if "__pycache__" not in name}
    assert sources, "csrc is where it was"
    assert sources | package | {"cogcache/py.typed", "LICENSE", "setup.py"} <= sdist


def test_the_sdist_holds_no_build_product(sdist: set[str]) -> None:
    assert not [name for name in sdist if name.endswith((".so", ".o", ".pyc"))]


def test_the_import_is_light() -> None:
    """A cause, not a time: what makes an import slow is what it pulls in."""
    script = "import sys; before = set(sys.modules); import cogcache; print(*sys.modules)"
    answer = run(sys.executable, "-W", "error", "-c", script)
    assert answer.returncode == 0, answer.stderr
    loaded = {name.partition(".")[0] for name in answer.stdout.split()}
    heavy = {"numpy", "boto3", "botocore", "PIL", "redis", "click", "rich", "torch", "cv2"}
    heavy |= {"pickle", "multiprocessing", "importlib_metadata", "pkg_resources"}
    assert not loaded & heavy
    assert "cogcache" in loaded


def test_aiofiles_is_the_only_dependency() -> None:
    project = tomllib.loads(ROOT.joinpath("pyproject.toml").read_text())["project"]
    [only] = project["dependencies"]
    assert only.startswith("aiofiles")
    assert {"s3", "redis", "images", "cli", "demo", "dev"} <= set(project["optional-dependencies"])


def test_plain_make_lists_the_targets() -> None:
    answer = run("make", "--no-print-directory")
    assert answer.returncode == 0, answer.stderr
    listed = re.findall(r"^  make ([\w-]+) +\S", answer.stdout, re.MULTILINE)
    wanted = {
        "venv",
        "demo",
        "demo-fleet",
        "test",
        "torture",
        "lint",
        "bench",
        "docs",
        "wheel",
        "clean",
    }
    assert wanted <= set(listed)
    assert len(answer.stdout.splitlines()) == len(listed), "one line each"
