"""docs/onnx.md: its examples run as they stand, and its lists are those of the code."""

import os

import pytest

import pages
from gatewise.cells.activations import KERAS

os.environ.setdefault("KERAS_BACKEND", "torch")
for module in ("onnx", "keras", "h5py"):
    pytest.importorskip(module)

EXAMPLES = pages.blocks("onnx.md")


def test_there_are_examples_of_each():
    for name in ("from_onnx", "from_keras", "from_cudnn"):
        assert any(f"gw.{name}(" in each for each in EXAMPLES)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
def test_the_pages_examples(example, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "onnx.md", "exec"), {})


def test_which_of_keras_functions_are_missing():
    from keras.src.activations import ALL_OBJECTS_DICT

    whole_axis = {"softmax", "log_softmax", "sparsemax", "glu"}
    missing = {name for name in ALL_OBJECTS_DICT if name not in KERAS} - whole_axis
    assert missing == {"gelu", "threshold"}
