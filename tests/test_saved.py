"""A saved model's folder: it is replaced whole, and what is not as it was saved is refused."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import re
import shutil
import struct
import subprocess
import sys
import time
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch

import gatewise as gw
from gatewise import atomic
from gatewise.data.output import write_table
from gatewise.errors import ModelFileError
from gatewise.tasks import saved
from gatewise.train.run import Run

pytestmark = pytest.mark.usefixtures("one_thread")


@gw.cell(gates="f n")
def leaky(a, s):
    """A user's own."""
    f = gw.sigmoid(a.f)
    return dict(f=f, h=f * s.h + (1 - f) * gw.tanh(a.n))


@pytest.fixture(scope="module")
def models(hourly, tmp_path_factory):
    """A model of each task, by its task."""
    rng = np.random.default_rng(0)
    quick = dict(hidden=4, epochs=1)
    columns = dict(past="wind", known="holiday", static="kind", calendar=True, conformal=True)
    forecaster = gw.Forecaster(
        6, "load", "date", series="place", context=48, hidden=5, steps=9, **columns
    )
    run = Run(tmp_path_factory.mktemp("fit"), quiet=True)
    zoned = hourly.with_columns(pl.col("date").dt.replace_time_zone("Asia/Tokyo"))
    X, labels = rng.normal(size=(30, 5, 2)), np.array(["up", "down", "naïve"] * 10)
    weights = {"up": 1.0, "down": 2.0, "naïve": 1.0}
    table = pd.DataFrame(rng.normal(size=(30, 5)), columns=list("abcde"))
    classifier = gw.Classifier(leaky, layers=2, class_weight=weights, **quick)
    regressor = gw.Regressor(pooling="attention", bidirectional=True, **quick)
    return {
        "forecast": forecaster.fit(zoned, run=run),
        "classify": classifier.fit(X, labels, validation=0.1),
        "regress": regressor.fit(table, rng.normal(size=(30, 2)), validation=0.1),
    }


@pytest.fixture(params=["forecast", "classify", "regress"])
def folder(request, models, tmp_path):
    return models[request.param].save(tmp_path / "model")


def described(folder):
    return json.loads((folder / "model.json").read_text())


def tensors_file(folder) -> Path:
    (path,) = folder.glob("model-*.safetensors")
    return path


def rewrite(folder, description, signed=True):
    """Put another description in a model's folder, with its own checksum unless not ``signed``."""
    if signed:
        description = {**description, "checksum": saved._content(description)}
    (folder / "model.json").write_text(json.dumps(description))


def changed(description, path, value):
    """A copy with the entry at a path such as learned.shape.hidden replaced, or removed by ``...``."""
    copy = json.loads(json.dumps(description))
    *parents, last = path.split(".")
    at = copy
    for each in parents:
        at = at[each]
    if value is ...:
        del at[last]
    else:
        at[last] = value
    return copy


def equal(one, other):
    """That two models have the same tensors, scales and description, to the bit."""
    state, again = one.network_.state_dict(), other.network_.state_dict()
    assert state.keys() == again.keys()
    assert all(torch.equal(state[name], again[name]) for name in state)
    assert not any(each.is_meta for each in again.values())
    for name in vars(one):
        if name.endswith("_") and name != "network_":
            np.testing.assert_equal(*(plain(vars(each)[name]) for each in (one, other)))
    return True


def plain(value):
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value


# What is written ----------------------------------------------------------------------------------


def test_a_model_comes_back_to_the_bit_and_no_random_number_is_drawn(models, folder):
    state = torch.get_rng_state()
    loaded = gw.load(folder)
    assert torch.equal(torch.get_rng_state(), state)
    assert equal(models[described(folder)["task"]], loaded)
    shutil.move(folder, folder.with_name("elsewhere"))
    assert equal(loaded, gw.load(folder.with_name("elsewhere")))


def test_a_folder_holds_one_version_and_what_else_was_there(models, folder):
    (folder / "model-final.safetensors").write_bytes(b"the user's")
    (folder / f".{'0' * 32}.part").write_bytes(b"of a save that was killed")
    (folder / f"model-{'0' * 32}.safetensors").write_bytes(b"of another")
    before = described(folder)["file"]["name"]
    models["regress"].save(folder)
    after = described(folder)["file"]["name"]
    assert before != after
    assert {p.name for p in folder.iterdir()} == {"model.json", after, "model-final.safetensors"}
    assert equal(models["regress"], gw.load(folder))


def test_where_a_folder_cannot_be_locked_the_version_before_goes(models, tmp_path, monkeypatch):
    def refused(path, *arguments):
        raise PermissionError(13, os.strerror(13), path)

    folder = models["regress"].save(tmp_path / "model")
    windows = SimpleNamespace(**{**vars(os), "open": refused, "name": "nt"})
    monkeypatch.setattr(atomic, "os", windows)
    models["classify"].save(folder)
    assert len(list(folder.iterdir())) == 2
    assert equal(models["classify"], gw.load(folder))


def test_a_file_that_another_process_holds_is_asked_for_again(models, tmp_path, monkeypatch):
    """As on Windows, where a file that is open cannot be replaced."""
    left = [3]

    def held(source, target):
        if left[0]:
            left[0] -= 1
            raise PermissionError(13, os.strerror(13), target)
        os.rename(source, target)

    monkeypatch.setattr(
        atomic, "os", SimpleNamespace(**{**vars(os), "name": "nt", "replace": held})
    )
    assert equal(models["regress"], gw.load(models["regress"].save(tmp_path)))
    assert left == [0]


def test_a_full_disk_leaves_the_old_model_whole_and_names_the_file(models, folder, monkeypatch):
    before = {p.name: p.read_bytes() for p in folder.iterdir()}

    def full(descriptor):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(atomic.os, "fsync", full)
    with pytest.raises(ModelFileError, match=r"cannot write .*model-.*safetensors: No space left"):
        models["regress"].save(folder)
    table = pl.DataFrame({"a": [1]})
    with pytest.raises(ModelFileError, match=r"cannot write .*forecast\.csv: No space left"):
        write_table(table, folder / "forecast.csv")
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


@pytest.mark.parametrize("name", ["taken/model", "a\0b", "long" * 100])
def test_a_folder_that_cannot_be_made_is_said(models, tmp_path, name):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(ModelFileError, match="cannot write"):
        models["regress"].save(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_a_weight_that_is_not_finite_is_neither_saved_nor_loaded(models, folder):
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    model = gw.load(folder)
    prefix = "members.0." if hasattr(model.network_, "members") else ""
    head = model.network_.get_submodule(f"{prefix}head")
    named = re.escape(f"{prefix}head.")
    with torch.no_grad():
        head.bias[1] = torch.nan
    with pytest.raises(
        ModelFileError, match=rf"'{named}bias' holds nan at \(1,\); expected finite"
    ):
        model.save(folder)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    with torch.no_grad():
        head.bias[1] = 0.0
        head.weight[0, 2] = -torch.inf
    with pytest.raises(ModelFileError, match=rf"'{named}weight' holds -inf at \(0, 2\)"):
        model.save(folder)
    spoilt(folder, f"{prefix}head.bias", b"\x00\x00\xc0\x7f")
    with pytest.raises(ModelFileError, match=rf"'{named}bias' holds nan at \(0,\)"):
        gw.load(folder)


def spoilt(folder, name, begin):
    """Let a tensor's data begin with other bytes, with a checksum that fits them."""
    path = tensors_file(folder)
    data = bytearray(path.read_bytes())
    at = 8 + struct.unpack("<Q", data[:8])[0]
    at += json.loads(data[8:at])[name]["data_offsets"][0]
    data[at : at + len(begin)] = begin
    path.write_bytes(data)
    checksums = {key: saved._checksum(each["data"]) for key, each in saved.deserialize(bytes(data))}
    rewrite(folder, {**described(folder), "tensors": checksums})


def test_options_that_were_set_after_fit_are_not_saved(models, folder):
    model = gw.load(folder)
    model.set_params(learning_rate=0.5)  # of another fit
    assert gw.load(model.save(folder)).learning_rate == 0.5
    model.set_params(**({"horizon": 7} if hasattr(model, "horizon") else {"pooling": "mean"}))
    with pytest.raises(ModelFileError, match=r"cannot be saved: the .* call fit again"):
        model.save(folder)


def test_what_is_neither_text_nor_number_is_not_saved(models, folder):
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    model = gw.load(folder)
    for value in (object(), Decimal(1), np.longdouble(1)):
        model.seed = value
        with pytest.raises(ModelFileError, match="cannot be saved as text and numbers"):
            model.save(folder)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


@pytest.mark.parametrize(
    "labels",
    [
        np.array([1.5, np.float64(2) ** 60, 0.1]),
        np.array([2**63, 5, 2**64 - 1], np.uint64),
        np.array(["", "\ud800", "\N{SNOWFLAKE}"]),
        np.array(["a", "b", "c"], object),
        np.array([0.1, 0.2, 0.3], np.float32),
        np.array(["2024-01-01T00:00:00.123456789", "2024", "1970"], "datetime64[ns]"),
    ],
)
def test_labels_come_back_as_they_were(models, tmp_path, labels):
    model = gw.load(models["classify"].save(tmp_path))
    model.classes_ = np.sort(labels)
    again = gw.load(model.save(tmp_path)).classes_
    assert again.dtype == labels.dtype
    assert again.tolist() == np.sort(labels).tolist()


def test_a_frequency_is_kept_as_text_whatever_it_was_given_as(models, tmp_path):
    model = gw.load(models["forecast"].save(tmp_path / "a"))
    model.freq = pd.offsets.Hour()
    assert gw.load(model.save(tmp_path / "b")).freq == "h"


# What is refused ----------------------------------------------------------------------------------


def test_what_is_no_model_is_said(folder, tmp_path):
    with pytest.raises(ModelFileError, match="not a folder"):
        gw.load(tmp_path / "nothing")
    with pytest.raises(ModelFileError, match="not a folder"):
        gw.load(folder / "model.json")
    with pytest.raises(ModelFileError, match=r"no model\.json"):
        gw.load(tmp_path)
    rewrite(folder, {**described(folder), "format": 99})
    with pytest.raises(ModelFileError, match="newer version"):
        gw.load(folder)
    for page in (b"[]", b"{}", b'{"format": 1, "task": ["forecast"]}'):
        (folder / "model.json").write_bytes(page)
        with pytest.raises(
            ModelFileError, match="its task must be one of forecast, classify, regress"
        ):
            gw.load(folder)
    for page in (b"", b"{", b"\xff\xfe", b"[" * 100_000, b"9" * 5000):
        (folder / "model.json").write_bytes(page)
        with pytest.raises(ModelFileError, match=r"model\.json is damaged"):
            gw.load(folder)


def test_a_file_of_tensors_that_is_not_the_models_is_refused(models, folder):
    path = tensors_file(folder)
    data = path.read_bytes()
    for other in (data[:-100], data + b"0", b""):
        path.write_bytes(other)
        with pytest.raises(
            ModelFileError, match=r"truncated: it has [\d,]+ bytes, expected [\d,]+"
        ):
            gw.load(folder)
    path.unlink()
    with pytest.raises(ModelFileError, match=r"which its model\.json names: the model is incompl"):
        gw.load(folder)
    outside = folder.parent / "outside.safetensors"
    outside.write_bytes(data)
    rewrite(folder, changed(described(folder), "file.name", "../outside.safetensors"))
    with pytest.raises(ModelFileError, match="name of its file of tensors is"):
        gw.load(folder)


def test_a_changed_bit_in_any_tensor_is_noticed(folder):
    path = tensors_file(folder)
    data = path.read_bytes()
    begin = 8 + struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:begin])
    assert header.keys() == described(folder)["tensors"].keys()
    for name, entry in header.items():
        for at in (entry["data_offsets"][0], entry["data_offsets"][1] - 1):
            other = bytearray(data)
            other[begin + at] ^= 1
            path.write_bytes(other)
            with pytest.raises(ModelFileError, match=f"'{name}' does not match its checksum"):
                gw.load(folder)


def entries(value, path=()):
    """The path of every entry of a description, and what it holds."""
    inside = value.items() if isinstance(value, dict) else enumerate(value)
    for key, each in inside:
        yield (*path, key), each
        if isinstance(each, (dict, list)):
            yield from entries(each, (*path, key))


def test_a_description_that_was_edited_is_refused_and_one_that_was_laid_out_anew_is_not(folder):
    before = described(folder)
    edited = 0
    for path, value in entries(before):
        if path[0] in ("options", "learned") and not isinstance(value, (dict, list)):
            copy = json.loads(json.dumps(before))
            at = copy
            for key in path[:-1]:
                at = at[key]
            at[path[-1]] = value + 1 if isinstance(value, (int, float)) else f"{value}x"
            rewrite(folder, copy, signed=False)
            with pytest.raises(ModelFileError, match=r"match its checksum\. Do not edit"):
                gw.load(folder)
            edited += 1
    assert edited > 30
    turned = {**before, "learned": dict(reversed(before["learned"].items()))}
    rewrite(folder, turned, signed=False)
    with pytest.raises(ModelFileError, match="checksum"):
        gw.load(folder)
    rewrite(folder, before, signed=False)  # without line breaks
    assert gw.load(folder)


NOT_THESE = {
    "forecast": [
        ("options.quantiles", [0.1, 0.9], "number of quantiles is 2 in one place and 3"),
        ("options.quantiles", [], "damaged: options"),
        ("options.quantiles", "abc", "options"),
        ("options.horizon", 7, "the horizon is 7 in one place and 6 in another"),
        ("options.target", {"a": 1}, "options.target must be a text"),
        ("options.time", 5, "options.time must be a text"),
        ("options.dropout", 2.5, "dropout must be a probability from 0 to 1, not 2.5"),
        ("options.new", 1, "options has 'new', which this gatewise does not know"),
        ("options.past", ["wind", "sun"], "number of past columns is 2"),
        ("options.static", [], "number of static features is 0"),
        ("learned.season", 0, "learned.season must be an integer from 1"),
        (
            "learned.season",
            25,
            "the learned season is 25, but season=None and the time step.s season is 24",
        ),
        ("options.season", 10**9, "the learned season is 24, but season=1000000000"),
        ("learned.season", ..., "learned has no 'season'"),
        ("learned.calendar", [0, 1, 2, 99], "learned.calendar|calendar has"),
        ("learned.timeline", "1h", "learned.timeline must be an object"),
        ("learned.timeline.every", 0, "timeline.every must be a positive integer"),
        ("learned.timeline.every", 2**62, "outside the range of timestamps"),
        ("learned.timeline.every", 7 * 3600 * 10**6, "time step.s season is 1"),
        ("learned.timeline.origin", 10**30, "learned.timeline.origin"),
        ("learned.timeline.unit", "parsec", "learned.timeline"),
        ("learned.timeline.kind", "lunar", "learned.timeline"),
        ("learned.timeline.zone", "Europe/Nowhere", "learned.timeline.zone"),
        ("learned.static_labels", {"kind": ["coast"]}, "number of static features is 1"),
        ("learned.shape", [1], "learned.shape must be an object"),
        ("learned.shape.patch", 0, "shape.patch must be an integer from 1"),
        ("learned.shape.patch", 7, "whole patches"),
        ("learned.shape.context", 0, "shape.context must be an integer from 1"),
        ("learned.shape.context", 72, "'seasonal.weight' is"),
        ("learned.shape.hidden", 6, "'lstm.weight_ih_l0' is"),
        ("learned.shape.layers", 2, "'lstm.bias_hh_l1' is missing"),
        ("learned.shape.dropout", -1, "shape.dropout must be a probability"),
        ("learned.validation", -0.5, "learned.validation must be a share"),
        ("learned.trained.north", "x", "learned.trained"),
        ("learned.seen.north", ..., "the series is"),
        ("learned.history.train", [None], r"history.train\[0\] must be"),
        ("tensors.new", "0", "the tensor 'new' is in only one of"),
    ],
    "classify": [
        ("options.cell", "nothing", "no cell 'nothing'"),
        (
            "options.cell",
            {"name": "x", "signature": "y"},
            "no cell has the name 'x' and the signature 'y'",
        ),
        ("options.cell", "lstm", "'members.0.recurrent.weight_ih_l0' is"),
        ("options.class_weight", [["up"]], "must be a list of 2"),
        ("options.class_weight", [["up", "x"]], "must be a non-negative number"),
        ("options.missing", "mask", "number of features is 4 in one place and 2"),
        ("options.pooling", "mean", "the pooling is 'mean' in one place and 'mean_max'"),
        ("options.filters", 31, "the number of filters is 31 in one place and 32"),
        ("learned.shape.filters", -1, "shape.filters must be an integer from 0"),
        ("options.bidirectional", "x", "bidirectional must be True or False"),
        ("learned.classes", ["down", "up"], "number of classes is 2 in one place and 3"),
        ("learned.classes", ["up", "naïve", "down"], "at least two sorted labels"),
        ("learned.classes", ["a", "b", ["c"]], "must be a text or a number"),
        ("learned.dtype", "<U3", "at least two sorted labels"),
        ("learned.dtype", "<U1000000000", "dtype"),
        ("learned.dtype", "<U100000", "labels cannot have the dtype"),
        ("learned.dtype", "<M8[ns]", "the classes are not of the dtype '<M8"),
        ("learned.dtype", "|V8", "labels cannot have the dtype"),
        ("learned.dtype", "no type", "'no type' is not a dtype"),
        ("learned.steps", 5, "number of features is 1"),
        ("learned.n_features_in", 3, "number of features is 3"),
        ("learned.shape.outputs", 2, "number of classes is 3 in one place and 2"),
        ("learned.shape.inputs", True, "shape.inputs must be an integer from 1"),
        ("learned", {}, "learned has no"),
    ],
    "regress": [
        ("learned.single", True, "number of targets is 2 in one place and 1"),
        ("learned.single", "yes", "learned.single must be True or False"),
        ("learned.feature_names_in", ["a"], "number of names is 1"),
        ("learned.feature_names_in", 5, "learned.feature_names_in must be a list"),
        ("learned.steps", 4, "number of steps is 5 in one place and 4"),
        ("learned.shape.bidirectional", False, "its tensors do not fit"),
        ("learned.shape.outputs", 3, "'members.0.head.weight' is .* expected"),
        ("options.hidden", -4, "hidden must be a positive integer"),
        ("options.members", 2, "the number of members is 2 in one place and 3"),
        ("learned.shape.members", 0, "shape.members must be an integer from 1"),
        ("options.class_weight", "balanced", "options has 'class_weight'"),
    ],
}


@pytest.mark.parametrize("folder", NOT_THESE, indirect=True)
def test_what_does_not_go_together_is_refused_even_with_its_checksum(folder):
    before = described(folder)
    for path, value, message in NOT_THESE[before["task"]]:
        rewrite(folder, changed(before, path, value))
        with pytest.raises(ModelFileError, match=message):
            gw.load(folder)


@pytest.mark.parametrize("value", [20_000, 10**6, 10**9, 2**62, 10**30])
def test_sizes_are_held_against_the_tensors_before_anything_is_made(folder, value):
    before, peak, begun = described(folder), peak_memory(), time.perf_counter()
    sizes = [name for name, size in before["learned"]["shape"].items() if type(size) is int]
    assert {"hidden", "layers"} <= set(sizes)
    for name in sizes:
        rewrite(folder, changed(before, f"learned.shape.{name}", value))
        with pytest.raises(ModelFileError, match="is damaged"):
            gw.load(folder)
    assert peak_memory() - peak < 200e6  # 20,000 hidden units took 6.5 GB
    assert time.perf_counter() - begun < 10


def peak_memory() -> int:
    resource = pytest.importorskip("resource", reason="Windows tells no peak of memory")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.mark.parametrize(
    ("task", "name"),
    [
        ("regress", "input_scale_.spread"),
        ("classify", "input_scale_.spread"),
        ("regress", "target_scale_.spread"),
        ("forecast", "scaling.target.scale"),
        ("forecast", "scaling.past.scale"),
        ("forecast", "scaling.static.scale"),
    ],
)
def test_a_scale_that_is_not_above_0_is_refused(models, tmp_path, task, name):
    folder = models[task].save(tmp_path)
    for value in (-np.inf, np.inf):
        spoilt(folder, name, struct.pack("<d", value))
        with pytest.raises(ModelFileError, match=f"'{name}' holds {value}"):
            gw.load(folder)
    for value in (-1.0, 0.0):
        spoilt(folder, name, struct.pack("<d", value))
        with pytest.raises(
            ModelFileError, match=f"'{name}' holds {value}; expected positive numbers"
        ):
            gw.load(folder)
    spoilt(folder, name, struct.pack("<d", np.nan))
    if name in ("scaling.target.scale", "scaling.past.scale"):  # of a series that had no value
        assert np.isnan(getattr(gw.load(folder).scaling_, name.split(".")[1]).scale[0, 0])
    else:
        with pytest.raises(ModelFileError, match=f"'{name}' holds nan"):
            gw.load(folder)


def test_mutants_are_refused_or_the_same_model(models, folder):
    draw, before = random.Random(0), {p: p.read_bytes() for p in folder.iterdir()}
    model, refused = models[described(folder)["task"]], 0
    for _ in range(150):
        for path, data in before.items():
            path.write_bytes(data)
        path = draw.choice(list(before))
        path.write_bytes(mutant(draw, before[path]))
        try:
            assert equal(model, gw.load(folder))
        except ModelFileError:
            refused += 1
    assert refused > 100


def mutant(draw, data):
    data, at, size = bytearray(data), draw.randrange(len(data)), draw.choice([1, 4, 16])
    match draw.randrange(4):
        case 0:
            data[at] ^= 1 << draw.randrange(8)
        case 1:
            del data[at:]
        case 2:
            del data[at : at + size]
        case 3:
            data[at:at] = draw.randbytes(size)
    return bytes(data)


# Other processes ----------------------------------------------------------------------------------


def saving(folder, **modes):
    """What tests/saving.py found with two models, by its modes."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(20, 4, 2)), rng.normal(size=20)
    for seed in (0, 1):
        gw.Regressor(hidden=4, epochs=1, seed=seed).fit(X, y).save(folder / str(seed))
    script = Path(__file__).with_name("saving.py")
    paths = [str(folder / name) for name in ("0", "1", "in")]
    wanted = [f"{mode}={count}" for mode, count in modes.items()]
    done = subprocess.run(
        [sys.executable, str(script), *paths, *wanted],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    print(done.stderr)
    return json.loads(done.stdout)


def check_whole(found, kills, loads):
    for kind, count in (("kills", kills), ("readers", 2 * loads)):
        assert found[kind].keys() <= {"first", "second"}
        assert sum(found[kind].values()) == count


def test_a_killed_save_and_readers_beside_it_find_one_whole_model(tmp_path):
    found = saving(tmp_path, steps=0, kills=8, readers=40, savers=6)
    check_whole(found, 8, 40)
    steps = found["steps"]  # killed before each operation on files: the old one, then the new one
    turn = steps.index("second")
    assert steps == ["first"] * turn + ["second"] * (len(steps) - turn)
    assert turn > 4
    assert len(steps) - turn > 4
    statuses, left, suffixes = found["savers"]
    assert statuses == [0, 0]
    assert left in ("first", "second")
    assert suffixes == [".json", ".safetensors"]


@pytest.mark.slow
def test_a_thousand_killed_saves_and_four_thousand_loads(tmp_path):
    found = saving(tmp_path, kills=1000, readers=2000)
    check_whole(found, 1000, 2000)
    assert found["kills"].keys() == found["readers"].keys() == {"first", "second"}
