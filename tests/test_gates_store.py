"""Traces in a Zarr store: written in pieces, read when they are used, never silently wrong."""

import shutil

import pytest
import torch
from torch import nn

import gatewise as gw
from gatewise.errors import DataError, OptionError, TooLargeError

pytest.importorskip("zarr")
LENGTHS = [7, 30, 12, 0, 30]
MODELS = {
    "LSTM": (lambda: gw.LSTM(3, 5, num_layers=2, batch_first=True), LENGTHS, (0.25, 2)),
    "both ways": (lambda: gw.Recurrent("gru", 3, 5, bidirectional=True), LENGTHS, (1,)),
    "MLSTM": (lambda: gw.MLSTM(3, 4, heads=2), LENGTHS, (0.25,)),
    "torch.LSTM": (lambda: nn.Sequential(nn.LSTM(3, 5, bidirectional=True)), None, (2,)),
    "torch.GRU": (lambda: nn.GRU(3, 5), None, (0.25,)),
}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(5)


@pytest.mark.parametrize("name", MODELS)
def test_a_store_has_the_trace_whatever_it_was_computed_in(name, tmp_path):
    """In pieces of a quarter of a sequence, of one and of two sequences."""
    make, lengths, shares = MODELS[name]
    model = make()
    x = torch.randn(5, 30, 3) if name == "LSTM" else torch.randn(30, 5, 3)
    whole = gw.trace(model, x, lengths=lengths)
    sequence = sum(v[0].numel() for t in whole.values() for n in t for of in t[n] for v in of) * 4
    for share in shares:
        path = tmp_path / f"{share}.zarr"
        stored = gw.trace(model, x, lengths=lengths, memory=int(sequence * share), store=path)
        again = gw.Traces.load(path)
        assert list(stored) == list(again) == list(whole)
        assert torch.equal(stored.output[0], whole.output[0])
        for module, trace in whole.items():
            found = again[module]
            assert found.names == trace.names
            assert found.cell == trace.cell
            assert lengths is None or found.lengths.tolist() == lengths
            for value in trace:
                for of_layer, expected in zip(found[value], trace[value], strict=True):
                    for one, other in zip(of_layer, expected, strict=True):
                        torch.testing.assert_close(one[:], other, rtol=0, atol=2e-6)
                        assert one.shape == other.shape


def test_a_stored_value_is_read_in_parts_and_used_as_a_tensor(tmp_path):
    model, x = gw.LSTM(3, 5, batch_first=True), torch.randn(2, 9, 3)
    whole = gw.trace(model, x)["model"].f[0][0]
    value = gw.trace(model, x, store=tmp_path / "t.zarr")["model"].f[0][0]
    assert torch.equal(value[1, 3:5], whole[1, 3:5])
    torch.testing.assert_close(torch.sigmoid(value), torch.sigmoid(whole), rtol=0, atol=1e-7)
    assert torch.equal(value > 0.5, whole > 0.5)
    assert torch.equal(1 - value, 1 - whole)
    assert torch.equal(
        torch.stack([value, value]).mean((1, 2)), torch.stack([whole, whole]).mean((1, 2))
    )
    assert value.mean() == whole.mean()
    assert repr(value).startswith("<model/f/0/0, 2×9×5, in ")


def test_values_that_are_all_zero_are_stored_too(tmp_path):
    model = nn.RNN(3, 4, nonlinearity="relu")
    nn.init.constant_(model.bias_hh_l0, -100.0)
    stored = gw.trace(model, torch.rand(9, 2, 3), store=tmp_path / "t.zarr")
    assert torch.equal(stored["model"].h[0][0][:], torch.zeros(2, 9, 4))


def test_a_decoders_calls_are_stored_one_after_the_other(tmp_path):
    class Loop(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.cell = gw.LSTM(3, 4), nn.GRUCell(3, 4)

        def forward(self, x):
            state, h = None, None
            for part in x.split(4):
                _, state = self.rnn(part, state)
                h = self.cell(part[0], h)
            return h

    model, x = Loop(), torch.randn(10, 2, 3)
    whole = gw.trace(model, x)
    stored = gw.trace(model, x, store=tmp_path / "t.zarr")
    assert stored["rnn"].calls == whole["rnn"].calls == (4, 4, 2)
    assert stored["cell"].calls == whole["cell"].calls == (1, 1, 1)
    torch.testing.assert_close(stored["rnn"].c[0][0][:], whole["rnn"].c[0][0])
    torch.testing.assert_close(stored["cell"].h[0][0][:], whole["cell"].h[0][0])


@pytest.fixture
def store(tmp_path):
    gw.trace(gw.LSTM(3, 5), torch.randn(9, 2, 3), store=tmp_path / "t.zarr")
    return tmp_path / "t.zarr"


def part(store):
    """The file of the one chunk of the forget gate."""
    (file,) = (p for p in (store / "model/f/0/0/c").rglob("*") if p.is_file())
    return file


def cut(file):
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])


def flip(file):
    data = bytearray(file.read_bytes())
    data[10] ^= 1
    file.write_bytes(bytes(data))


DAMAGES = {
    "a part is gone": (
        lambda s: shutil.rmtree(s / "model/f/0/0/c"),
        "1 of 1 parts of model/f/0/0 are",
    ),
    "a value is gone": (lambda s: shutil.rmtree(s / "model/f"), "is damaged"),
    "a part is cut": (lambda s: cut(part(s)), "is damaged: model/f"),
    "a bit is flipped": (lambda s: flip(part(s)), "is damaged: model/f"),
    "its description is cut": (lambda s: cut(s / "zarr.json"), "is damaged"),
    "an array's description is cut": (lambda s: cut(s / "model/f/0/0/zarr.json"), "is damaged"),
    "an array's shape": (
        lambda s: (s / "model/f/0/0/zarr.json").write_text(
            (s / "model/f/0/0/zarr.json").read_text().replace("9,", "8,", 1)
        ),
        "has the shape|is damaged",
    ),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_store_says_so(store, damage, message):
    damage(store)
    with pytest.raises(DataError, match=message):
        gw.Traces.load(store)["model"].f[0][0][:]


def test_a_store_that_cannot_be_written_or_read(store, tmp_path):
    model, x = gw.LSTM(3, 5), torch.randn(9, 2, 3)
    with pytest.raises(OptionError, match="exists already"):
        gw.trace(model, x, store=store)
    with pytest.raises(OptionError, match="there is no folder"):
        gw.trace(model, x, store=tmp_path / "no" / "t.zarr")
    with pytest.raises(DataError, match="there is no store"):
        gw.Traces.load(tmp_path / "other.zarr")
    with pytest.raises(OptionError, match="needs the traces in memory"):
        gw.trace(model, x, store=tmp_path / "u.zarr", differentiable=True)
    with pytest.raises(TooLargeError, match="one step of it takes 120 bytes"):
        gw.trace(model, x, store=tmp_path / "u.zarr", memory=100)
    both = gw.LSTM(3, 5, bidirectional=True)
    with pytest.raises(TooLargeError, match=r"reads backward too.*takes 2160 bytes"):
        gw.trace(both, x, store=tmp_path / "u.zarr", memory=1000)
    dropping = gw.LSTM(3, 5, num_layers=2, dropout=0.5)
    with pytest.raises(OptionError, match=r"other dropout masks .* model.eval\(\)"):
        gw.trace(dropping, x, store=tmp_path / "u.zarr", memory=1000)
    assert [p.name for p in tmp_path.iterdir()] == ["t.zarr"]
