"""The planted faults still have their places, and the tool tells what a test finds from what it doesn't."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def faults():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        import faults

        yield faults
    for name in ("faults", "planted_faults"):
        sys.modules.pop(name, None)


def test_every_fault_has_its_place(faults):
    assert faults.lost(faults.FAULTS) == []
    assert len({fault.name for fault in faults.FAULTS}) == len(faults.FAULTS)


@pytest.mark.slow
def test_a_fault_is_found_and_no_fault_is_not(faults):
    (fault,) = (f for f in faults.FAULTS if f.name == "data: sign of a zone's name")
    found, missed = (faults.tried(each) for each in (fault, replace(fault, new=fault.old)))
    assert (found["outcome"], missed["outcome"]) == ("found", "missed")
    assert found["by"].startswith("tests/test_zones.py::")


def test_a_fault_without_a_place_is_named(faults):
    gone = replace(faults.FAULTS[0], old="no such text", tests=("test_none.py",))
    places, files = faults.lost([gone])
    assert "stands 0 times" in places
    assert files.endswith("there is no tests/test_none.py")
