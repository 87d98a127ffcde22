"""Files that would take gigabytes, or minutes, are refused with little of either."""

import json
import re
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest

import gatewise as gw
from gatewise.errors import ModelFileError

pytest.importorskip("onnx")
pytest.importorskip("h5py")
import weights_bombs as bombs

# to count each allocation of many small ones takes long; the test below has them too
FEW = {name: bomb for name, bomb in bombs.ONNX.items() if not name.startswith("many small")}


@pytest.mark.parametrize(("make", "message"), FEW.values(), ids=FEW)
def test_no_onnx_model_makes_much_of_itself(make, message):
    """As NumPy and Python count it; the test below measures the process."""
    model = make()
    tracemalloc.start()
    try:
        with pytest.raises(ModelFileError, match=message):
            gw.from_onnx(model)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 200e6


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="measured on Linux alone")
def test_no_file_takes_much_memory_or_time(tmp_path):
    program = Path(__file__).with_name("weights_bombs.py")
    run = subprocess.run(
        [sys.executable, str(program), str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    taken = json.loads(run.stdout)
    assert len(taken) == len(bombs.ONNX) + len(bombs.KERAS) + 1
    for name, (outcome, peak, seconds, message) in taken.items():
        assert re.match(f"(?s)(ModelFileError|ShapeError): .*({message})", outcome), (name, outcome)
        assert peak < 250e6, (name, peak)
        assert seconds < 20, (name, seconds)
