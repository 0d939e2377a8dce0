"""The tree of errors: ours, and each also the built-in that callers expect."""

import pickle

import pytest

from cogcache import exceptions
from cogcache.exceptions import CogcacheError, CogcacheWarning, KeyTypeError, ValueTypeError

BUILT_IN = {
    "ConfigError": ValueError,
    "KeyTypeError": TypeError,
    "ValueTypeError": TypeError,
    "ClosedError": RuntimeError,
    "RecursiveComputeError": RuntimeError,
    "MissingExtraError": ImportError,
    "IncompleteError": OSError,
    "NotFoundError": KeyError,
    "PinLimitError": ValueError,
}


@pytest.mark.parametrize(("name", "built_in"), BUILT_IN.items())
def test_every_error_is_ours_and_a_built_in(name, built_in):
    error = getattr(exceptions, name)("what happened")

    assert isinstance(error, CogcacheError)
    assert isinstance(error, built_in)
    assert str(error) == "what happened"
    assert str(pickle.loads(pickle.dumps(error))) == "what happened"


def test_the_tree_is_complete_and_every_name_is_public():
    names = {*BUILT_IN, "CogcacheError", "CogcacheWarning"}

    assert set(exceptions.__all__) == names
    assert issubclass(CogcacheWarning, UserWarning)
    for name in names:
        assert name in exceptions.__doc__


@pytest.mark.parametrize("kind", [KeyTypeError, ValueTypeError])
def test_both_type_errors_keep_the_place(kind):
    error = pickle.loads(pickle.dumps(kind("$.a[0]: no", "$.a[0]")))

    assert error.path == "$.a[0]"
    assert str(error) == "$.a[0]: no"
    assert kind("no").path == "$"
