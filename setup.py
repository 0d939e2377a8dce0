"""Build the extension ``cogcache._core``; everything declarative is in ``pyproject.toml``.

Where zstd and xxHash are found, first answer wins:

1. ``COGCACHE_ZSTD_INCLUDEDIR``, ``COGCACHE_ZSTD_LIBDIR``, ``COGCACHE_XXHASH_INCLUDEDIR``
   (of xxHash only the header is used: nothing is linked);
2. ``pkg-config`` (or what ``PKG_CONFIG`` names);
3. the compiler's own search path, with ``CPPFLAGS``, ``CFLAGS`` and ``LDFLAGS``.

Switches, each an environment variable:

- ``COGCACHE_DEBUG=1``: no optimisation, debug information, asserts live;
- ``COGCACHE_SANITIZE=address,undefined``: what ``-fsanitize=`` takes;
- ``COGCACHE_COVERAGE=1``: gcov counters;
- ``COGCACHE_WERROR=1``: every warning of the house is an error.
"""

import os
import shlex
import subprocess
import sysconfig
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import PlatformError

# -Wpedantic is for the core alone (`make lint`): slots of Python types hold functions as void *.
WARNINGS = ["-Wall", "-Wextra", "-Wshadow", "-Wconversion", "-Werror"]

HOW_TO_GET = """\
How to get everything a build needs:
  apt    apt-get install build-essential pkg-config python3-dev libzstd-dev libxxhash-dev
  dnf    dnf install gcc make pkgconf-pkg-config python3-devel libzstd-devel xxhash-devel
  apk    apk add build-base pkgconf python3-dev zstd-dev xxhash-dev
  brew   brew install pkgconf zstd xxhash
  conda  conda install -c conda-forge c-compiler pkg-config zstd xxhash
Elsewhere on this machine? Say where:
  COGCACHE_ZSTD_INCLUDEDIR=... COGCACHE_ZSTD_LIBDIR=... COGCACHE_XXHASH_INCLUDEDIR=..."""


@dataclass
class Library:
    """A C library the core is linked with, and once located, the flags that find it."""

    name: str  # upper-cased, the middle of its environment variables
    package: str  # as pkg-config knows it
    header: str
    version_macro: str
    minimum: int  # the least value of version_macro
    minimum_text: str
    use: str  # a call that links with every usable build
    link: list[str]  # the -l names; none for a header that brings its code
    include_dirs: list[str] = field(default_factory=list)
    library_dirs: list[str] = field(default_factory=list)
    found_by: str = "the compiler's search path"

    def locate(self) -> None:
        """Fill in the directories from the environment, or else from pkg-config."""
        include = os.environ.get(f"COGCACHE_{self.name.upper()}_INCLUDEDIR")
        lib = os.environ.get(f"COGCACHE_{self.name.upper()}_LIBDIR")
        if include or lib:
            self.include_dirs = [include] if include else []
            self.library_dirs = [lib] if lib else []
            self.found_by = ", ".join(
                f"COGCACHE_{self.name.upper()}_{kind}={value}"
                for kind, value in (("INCLUDEDIR", include), ("LIBDIR", lib))
                if value
            )
            return
        tool = shlex.split(os.environ.get("PKG_CONFIG") or "pkg-config")
        answer = run([*tool, "--cflags", "--libs", self.package])
        if answer is None or answer.returncode != 0:
            self.found_by += f" ({tool[0]} does not know {self.package})"
            return
        flags = shlex.split(answer.stdout)
        self.include_dirs = [flag[2:] for flag in flags if flag.startswith("-I")]
        self.library_dirs = [flag[2:] for flag in flags if flag.startswith("-L")]
        self.found_by = f"{tool[0]} {self.package}"

    def miss(self, compiler: "Compiler") -> str | None:
        """Say what is wrong with this library, or None when it can be used."""
        self.locate()
        # An override must be what is used, not what the compiler would find without it.
        include = f'#include "{self.include_dirs[0]}/{self.header}"\n' if self.overridden else ""
        include = include or f"#include <{self.header}>\n"
        flags = [f"-I{path}" for path in self.include_dirs]
        where = f"looked through {self.found_by}"
        if not compiler.accepts(include, flags):
            return f"{self.header} of {self.package}: not found; {where}"
        too_old = f"#if {self.version_macro} < {self.minimum}\n#error too old\n#endif\n"
        if not compiler.accepts(include + too_old, flags):
            return f"{self.package}: older than {self.minimum_text}; {where}"
        libs = [f"-L{path}" for path in self.library_dirs] + [f"-l{name}" for name in self.link]
        call = f"int main(void) {{ return (int)({self.use} == 0); }}\n"
        if not compiler.accepts("#define XXH_INLINE_ALL\n" + include + call, flags, libs):
            return f"{self.package}: headers found, but a program does not link; {where}"
        return None

    def header_miss(self) -> str | None:
        """Without a compiler: say that the header is in none of the usual places."""
        self.locate()
        folders = self.include_dirs or ["/usr/include", "/usr/local/include"]
        if any(Path(folder, self.header).exists() for folder in folders):
            return None
        return f"{self.header} of {self.package}: not found; looked in {', '.join(folders)}"

    @property
    def overridden(self) -> bool:
        """Whether the environment named the headers."""
        return bool(self.include_dirs) and self.found_by.startswith("COGCACHE_")


LIBRARIES = [
    Library(
        name="zstd",
        package="libzstd",
        header="zstd.h",
        version_macro="ZSTD_VERSION_NUMBER",
        minimum=10400,
        minimum_text="1.4.0",
        use="ZSTD_versionNumber()",
        link=["zstd"],
    ),
    Library(
        name="xxhash",
        package="libxxhash",
        header="xxhash.h",
        version_macro="XXH_VERSION_NUMBER",
        minimum=800,
        minimum_text="0.8.0",
        use="XXH3_64bits(0, 0)",
        link=[],
    ),
]


def run(command: list[str]) -> subprocess.CompletedProcess[str] | None:
    """Run a command quietly; None when there is no such program."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return None


class Compiler:
    """The compiler that distutils will use, asked whether it accepts a few lines of C."""

    def __init__(self) -> None:
        self.command = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")

    def accepts(self, source: str, flags: list[str], libs: list[str] | None = None) -> bool:
        """Compile ``source``; with ``libs`` also link it."""
        environment = [
            flag
            for name in ("CPPFLAGS", "CFLAGS", "LDFLAGS")
            for flag in shlex.split(os.environ.get(name, ""))
        ]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "probe.c")
            path.write_text(source)
            output = ["-o", str(path.with_suffix(""))]
            stage = ["-fsyntax-only"] if libs is None else [*output, *libs]
            answer = run([*self.command, *environment, *flags, str(path), *stage])
        return answer is not None and answer.returncode == 0

    def misses(self) -> list[str]:
        """Return a line for each thing that a build needs and this machine lacks."""
        if not self.accepts("int main(void) { return 0; }\n", [], []):
            found = [f"a C compiler: `{shlex.join(self.command)}` does not build a program (CC)"]
            return found + [line for library in LIBRARIES if (line := library.header_miss())]
        found = [library.miss(self) for library in LIBRARIES]
        python = sysconfig.get_path("include")
        if not self.accepts("#include <Python.h>\n", [f"-I{python}"]):
            found.append(f"Python.h of this Python: not found; looked in {python}")
        return [line for line in found if line]


def switched_on(name: str) -> bool:
    return os.environ.get(name, "") not in ("", "0")


class BuildCore(build_ext):
    """Check what the build needs before the first compiler call, then apply the switches."""

    def build_extensions(self) -> None:
        """Build, or raise one message with everything that is missing."""
        misses = Compiler().misses()
        if misses:
            lines = "\n".join(f"  - {line}" for line in misses)
            raise PlatformError(f"cogcache cannot be built here. Missing:\n{lines}\n{HOW_TO_GET}")
        for extension in self.extensions:
            configure(extension)
        super().build_extensions()


def configure(extension: Extension) -> None:
    """Give the extension its libraries and flags."""
    compile_args = ["-std=c11", "-fvisibility=hidden", "-pthread"]
    link_args = ["-pthread"]
    for library in LIBRARIES:
        extension.include_dirs += library.include_dirs
        extension.library_dirs += library.library_dirs
        extension.libraries += library.link
    if switched_on("COGCACHE_DEBUG"):
        # Python's own flags carry NDEBUG; ours come later and win.
        compile_args += ["-O0", "-g3", "-UNDEBUG"]
    else:
        compile_args += ["-O3"]
    sanitizers = os.environ.get("COGCACHE_SANITIZE")
    if sanitizers:
        compile_args += [f"-fsanitize={sanitizers}", "-fno-omit-frame-pointer", "-g"]
        link_args += [f"-fsanitize={sanitizers}"]
    if switched_on("COGCACHE_COVERAGE"):
        compile_args += ["--coverage", "-O0"]
        link_args += ["--coverage"]
    if switched_on("COGCACHE_WERROR"):
        compile_args += WARNINGS
    extension.extra_compile_args += compile_args
    extension.extra_link_args += link_args


def files(pattern: str) -> list[str]:
    """Return what matches in csrc, sorted, so that every build links in the same order."""
    return sorted(path.as_posix() for path in Path("csrc").glob(pattern))


setup(
    ext_modules=[
        Extension(
            "cogcache._core",
            sources=files("core/*.c") + files("python/*.c"),
            depends=files("*/*.h"),
            include_dirs=["csrc"],
        )
    ],
    cmdclass={"build_ext": BuildCore},
)
