"""A few mutants of every file that is read; benchmarks/mutants.py tries thousands."""

import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def mutants():
    for name in ("onnx", "keras", "h5py"):
        if find_spec(name) is None:
            pytest.skip(f"{name} is not installed")
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("memory is measured on Linux alone")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        import mutants

        yield mutants
    for name in ("mutants", "mutations"):
        sys.modules.pop(name, None)


@pytest.mark.slow
def test_a_damaged_file_is_an_error_of_ours_or_the_same_or_what_no_format_notices(mutants):
    result = mutants.run(200, list(mutants.KINDS), 2)
    assert result["mutants"] >= 190
    assert set(result["outcomes"]) == set(mutants.KINDS)
    assert result["failures"] == []


@pytest.mark.slow
def test_each_kind_of_failure_is_one(mutants, tmp_path):
    """A reader with every fault, in a worker of its own for each."""
    program = tmp_path / "faulty.py"
    program.write_text(FAULTY.format(benchmarks=str(BENCHMARKS)))
    found = list(mutants.tried(tmp_path, [("csv", k) for k in range(8)], 1, str(program), 30.0))
    outcomes = [each["outcome"] for _, _, each in found]
    assert outcomes == [
        *("refused", "same", "unguarded", "not finite"),
        *("other exception", "memory", "hang", "crash"),
    ]


FAULTY = """
import os, sys, time
sys.path.insert(0, {benchmarks!r})
import mutants
import numpy as np
from dataclasses import replace
from gatewise.errors import DataError

number = -1


def read(path):
    if path.read_text() == "sound":
        return dict(y=np.zeros(3))
    match int(path.read_text()):
        case 0: raise DataError("damaged")
        case 1: return dict(y=np.zeros(3))
        case 2: return dict(y=np.ones(3))
        case 3: return dict(y=np.array([0, np.nan, 0]))
        case 4: raise ZeroDivisionError
        case 5: np.ones(80 * 2**20); raise DataError("at last")
        case 6: time.sleep(600)
        case 7: os._exit(3)


mutants.KINDS["csv"] = replace(mutants.KINDS["csv"], read=read)
mutants._sound_result = lambda name: dict(y=np.zeros(3))
mutants.mutant = lambda name, n: (mutants.SOUND / "table.csv", str(n).encode(), "bytes")
mutants.work(mutants.Path(sys.argv[2]))
"""
