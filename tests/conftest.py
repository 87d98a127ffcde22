from __future__ import annotations

import gc
import os
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import torch

from covering import selected
from gatewise.backends.registry import forget_choices

# Triton looks when it is first imported: without a GPU its kernels are interpreted (test_triton.py)
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

    # torch.manual_seed keeps the text of the call's stack for each kind of device that may yet be used
    for devices in (torch.cuda, torch.xpu, torch.mtia):
        devices.traceback = SimpleNamespace(format_stack=list)


def pytest_configure(config):
    # the tests' own cells are compiled once, and not into the user's cache
    if "GATEWISE_CACHE" not in os.environ:
        os.environ["GATEWISE_CACHE"] = str(config.cache.mkdir("cells"))


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """What is imported and collected stays to the end: the garbage collector is spared going through it."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture(autouse=True)
def choices_anew():
    """Tests change what there is to choose from: none may see what an earlier one left."""
    forget_choices()
    yield
    forget_choices()


@pytest.fixture
def precisions_can_be_set(monkeypatch):
    """torch's test helpers, which another test may have imported, forbid setting its backends' precisions."""
    flags = torch.backends.flags_frozen.__globals__
    monkeypatch.setitem(flags, "__allow_nonbracketed_mutation_flag", True)


@pytest.hookimpl(tryfirst=True)  # before pytest leaves out what is slow
def pytest_collection_modifyitems(items):
    """Marks as slow the parameter sets of a ``pairwise`` test that a pairwise array does without, and takes
    the mark ``quick``, where it lists ids, from the other sets."""
    for item in items:  # the tests of papers/ are slow ones, but for those that are marked short
        if item.path.name.startswith("test_paper") and not item.get_closest_marker("short"):
            item.add_marker(pytest.mark.slow)
    sets = {}
    for item in items:
        if item.get_closest_marker("pairwise") and not item.get_closest_marker("slow"):
            sets.setdefault((item.path, item.cls, item.function), []).append(item)
        for mark in item.iter_markers("quick"):
            if mark.args and item.callspec.id not in mark.args:
                item.own_markers.remove(mark)
    for each in sets.values():
        kept = set(selected([item.callspec.params for item in each]))
        for place, item in enumerate(each):
            if place not in kept:
                item.add_marker("slow")


@pytest.fixture(scope="session")
def hourly() -> pl.DataFrame:
    """Sixty days of two noisy series with a daily shape: what a seasonal model can learn."""
    rng = np.random.default_rng(0)
    hours = np.arange(60 * 24)
    start = np.datetime64("2024-01-01T00", "us")
    parts = []
    for name, level in (("north", 10.0), ("south", 200.0)):
        shape = np.sin(2 * np.pi * hours / 24) + 0.5 * np.sin(4 * np.pi * hours / 24)
        noise = rng.normal(0, 0.2, len(hours))
        parts.append(
            pl.DataFrame(
                {
                    "date": start + hours.astype("timedelta64[h]"),
                    "place": name,
                    "load": level * (1 + 0.3 * (shape + noise)),
                    "wind": rng.normal(0, 1, len(hours)),
                    "holiday": (hours // 24 % 7 == 6).astype(float),
                    "kind": "coast" if name == "north" else "inland",
                }
            )
        )
    return pl.concat(parts)


@pytest.fixture(scope="module")
def one_thread():
    """Tensors this small run six times as fast on one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def each_round_saved(monkeypatch):
    """However short rounds are, each of them writes the checkpoint."""
    monkeypatch.setattr("gatewise.train.loop.SAVE_EVERY", 0.0)
