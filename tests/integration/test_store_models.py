"""The models of the store's protocol hold, and each would notice its bug."""

import pytest
from models import check

needs_spin = pytest.mark.skipif(
    bool(check.missing_tools()), reason=f"not installed: {', '.join(check.missing_tools())}"
)


@needs_spin
@pytest.mark.parametrize("run", check.QUICK, ids=str)
def test_bounded_search(run: check.Run) -> None:
    assert check.search(run, seconds=500) is None


@needs_spin
@pytest.mark.torture
@pytest.mark.timeout(0)
@pytest.mark.parametrize("run", list(check.full())[len(check.QUICK) :], ids=str)
def test_exhaustive_search(run: check.Run) -> None:
    assert check.search(run) is None
