"""What is stored is data: no pickle, no eval, no import by a stored name on any way in or out."""

import ast
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted((ROOT / "cogcache").rglob("*.py"))
SOURCES = sorted((ROOT / "csrc").rglob("*.[ch]"))
FORBIDDEN_MODULES = {
    *("pickle", "_pickle", "cPickle", "marshal", "shelve", "copyreg", "code", "codeop", "imp"),
    *("dill", "cloudpickle", "joblib", "jsonpickle", "yaml", "importlib", "runpy", "ctypes"),
}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__", "execfile"}


def test_the_package_uses_no_pickle_and_no_eval():
    assert len(MODULES) > 30
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            where = f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.Import):  # importlib.util only asks whether a module is there
                modules = [alias.name for alias in node.names if alias.name != "importlib.util"]
                names = [name.partition(".")[0] for name in modules]
            elif isinstance(node, ast.ImportFrom):
                names = [(node.module or "").partition(".")[0]]
            else:
                names = []
            assert not FORBIDDEN_MODULES & set(names), where
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Attribute):
                assert ast.unparse(node.value) != "importlib.util" or node.attr == "find_spec", (
                    where
                )
            if isinstance(node, ast.Call):
                called = node.func
                assert not isinstance(called, ast.Name) or called.id not in FORBIDDEN_CALLS, where
                assert not any(word.arg == "allow_pickle" for word in node.keywords), where


def test_the_core_runs_no_python_source_and_imports_by_fixed_names_only():
    """Each import of the binding names its module in the source, or takes it from a list there."""
    assert len(SOURCES) > 40
    imported: set[str] = set()
    for path in SOURCES:
        text = path.read_text()
        assert not re.search(r"\b(PyRun_|PyEval_EvalCode|Py_CompileString|PyMarshal_)", text), path
        assert not re.search(r'"_?(pickle|marshal|builtins\.eval)"', text), path
        used = set(re.findall(r"PyImport_\w+", text))
        assert used <= {"PyImport_ImportModule", "PyImport_GetModule"}, path  # the other one looks
        imported.update(re.findall(r"PyImport_ImportModule\(([^()]*)\)", text))
    assert imported == {
        '"cogcache.codecs"',
        '"cogcache.exceptions"',
        '"cogcache.keys"',
        '"collections"',
        '"numpy"',
        "modules[i]",  # the constant list of py_build.c
    }
    build = (ROOT / "csrc/python/py_build.c").read_text()
    assert re.search(r"static const char \*const modules\[\] = \{[^}]*\}", build)


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script, *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        env={"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "PATH": ""},
    )


WITHOUT_PICKLE = '''
import sys

class Forbid:
    """As if pickle did not exist."""
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("pickle", "_pickle", "shelve", "dill", "cloudpickle"):
            raise SystemExit(f"{name} is imported")

sys.meta_path.insert(0, Forbid())
if len(sys.argv) > 1 and sys.argv[1] == "wrong":
    import pickle

import asyncio, datetime, decimal, fractions, pathlib, uuid
from cogcache import CacheManager
from cogcache.config import CacheConfig, FilesystemCacheConfig, MemoryCacheConfig
from cogcache.codecs import register_type

class Mine:
    pass

register_type(Mine, name="mine", to_plain=lambda mine: 1, from_plain=lambda plain: Mine())
value = {
    "plain": [None, True, 1, 2**90, 1.5, "x", "\\ud800", b"b", bytearray(b"c"), (1, 2), {3}],
    "large": ["x" * 9000, b"y" * 9000],
    "rest": [frozenset({1}), 1j, fractions.Fraction(1, 3), decimal.Decimal("1.1"),
             datetime.datetime.now(datetime.UTC), datetime.date(2026, 1, 1), uuid.uuid4(),
             pathlib.Path("/a"), datetime.timedelta(1), datetime.time(1)],
    (1, "key"): 5,
}

async def main(root):
    tiers = [MemoryCacheConfig(), FilesystemCacheConfig(root, priority=1)]
    async with CacheManager(CacheConfig(backends=tiers, serialization_format="pickle")) as cache:
        assert await cache.set("k", value)
        assert await cache.set("mine", [Mine()])
        for tier in cache.backends:
            assert await tier.get("k") == value
        assert type((await cache.get("mine"))[0]) is Mine
        assert await cache.get_or_compute("c", lambda: value) == value
        assert await cache.get_many(["k", "c"]) == {"k": value, "c": value}
        await cache.list_keys(include_metadata=True)
        await cache.get_stats()

import warnings
warnings.simplefilter("ignore")
asyncio.run(main(sys.argv[-1]))
assert "pickle" not in sys.modules and "_pickle" not in sys.modules
'''


def test_the_whole_way_works_where_there_is_no_pickle(tmp_path: Path):
    answer = run(WITHOUT_PICKLE, str(tmp_path))
    assert (answer.returncode, answer.stderr) == (0, "")
    assert "is imported" in run(WITHOUT_PICKLE, "wrong", str(tmp_path)).stderr  # it would be seen


NOTHING_RUNS = """
import sys, pickle, warnings
import numpy as np
from fractions import Fraction
from PIL import Image
from support.valuedata import VALUES, KEY, draft
from cogcache import _core
from cogcache.frames import make_bundle

BAD = ("import", "exec", "compile", "pickle.find_class", "marshal.loads", "marshal.load",
       "code.__new__", "function.__new__", "os.system", "os.exec", "subprocess.Popen")
seen = None  # nothing is watched yet: modules that a first use imports are part of no entry

def watch(event, arguments):
    if seen is not None and event in BAD:
        seen.append((event, str(arguments)[:80]))

sys.addaudithook(watch)
pixels = np.arange(48, dtype="u1").reshape(4, 4, 3)
image = Image.fromarray(pixels)
values = {name: make() for name, make in VALUES.items()}
values["picture"] = {"a": image, "b": image.convert("P")}
values["bundle"] = make_bundle(
    {"keyframes": [{}, {}, {}]}, [b"\\xff\\xd8\\xff", pixels, image.convert("RGBA")]
)
store = _core.Store(sys.argv[1], max_bytes=200_000_000)

def round_trips():
    for name, value in values.items():
        for options in ({}, {"compress": False, "compress_arrays": True}):
            made = draft(value, **options)
            assert store.put(made) is None
            entries = [_core.Entry.from_bytes(made.compose().tobytes()), store.fetch(KEY)]
            for entry in entries:
                for mode in ("copy", "view", "cow"):
                    back = entry.value(mode=mode)
                    entry.value_type(), entry.meta, entry.parts()
                if name == "bundle":
                    back[1].decode_here([1, 2]), back[1][1], back[1][2]

round_trips()
seen = []
round_trips()
found, seen = seen, []
assert found == [], found
pickle.loads(pickle.dumps(Fraction(1, 3)))
eval("1 + 1")
kinds = {event for event, _ in seen}
seen = None
assert {"pickle.find_class", "compile", "exec"} <= kinds, kinds  # the watch sees them
"""


def test_no_value_makes_the_interpreter_run_anything(tmp_path: Path):
    answer = run(NOTHING_RUNS, str(tmp_path))
    assert (answer.returncode, answer.stderr) == (0, "")
