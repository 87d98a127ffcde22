"""Statistics of gates: planted units, exact counts, streams and merging."""

import math

import numpy as np
import pytest
import torch

import gatewise as gw
from gatewise.cells.bounds import bounds, gates_of
from gatewise.cells.retention import retention
from gatewise.errors import DataError, OptionError
from gatewise.gates.directions import Place
from gatewise.gates.moments import Scatter, statistics_of
from gatewise.gates.statistics import Statistics, gate_statistics

HELD = (0.5, 0.9, 0.99)


def logit(p):
    return math.log(p / (1 - p))


def planted(forget=HELD, **options):
    """An LSTM without recurrence whose units have these forget gates at every step."""
    layer = gw.LSTM(2, len(forget), batch_first=True, **options)
    with torch.no_grad():
        for name, weight in layer.named_parameters():
            if name.startswith("weight_hh"):
                weight.zero_()
        H = len(forget)
        for suffix in ("_l0", "_l0_reverse")[: 1 + layer.bidirectional]:
            getattr(layer, f"weight_ih{suffix}")[H : 2 * H] = 0
            bias = torch.tensor([logit(f) for f in forget])
            getattr(layer, f"bias_ih{suffix}")[H : 2 * H] = bias
            getattr(layer, f"bias_hh{suffix}")[H : 2 * H] = 0
    return layer


def traced(layer, x, lengths=None):
    with torch.no_grad():
        return layer(x, lengths=lengths, trace=True)[2]


def test_planted_units_have_their_time_scales():
    """f = .5, .9, .99: T = -1 / ln f."""
    found = gate_statistics(traced(planted(bidirectional=True), torch.randn(4, 30, 2)))
    assert len(found.layers) == 2
    for layer in found.layers.values():
        assert layer.time_scale["c"] == pytest.approx([1.4427, 9.4912, 99.4992], rel=1e-3)
    column = found.table()
    rows = (column["value"] == "c") & (column["direction"] == 1)
    assert column["time_scale"][rows] == pytest.approx([1.44, 9.49, 99.5], rel=0.01)
    assert np.isnan(column["time_scale"][column["value"] == "f"]).all()


@pytest.mark.parametrize("name", ["lstm", "gru", "fgr", "lem", "slstm", "mingru", "rnn_relu"])
def test_counts_are_those_of_numpy_over_the_real_steps(name):
    """Every value, in batches with padding and in parts that are merged; NaN stands in the padding."""
    torch.manual_seed(0)
    layer = gw.Recurrent(name, 3, 5, num_layers=2, bidirectional=True, batch_first=True)
    with torch.no_grad():
        for weight in layer.parameters():
            weight.mul_(3)
    x, lengths = 2 * torch.randn(6, 9, 3), torch.tensor([9, 1, 0, 4, 9, 3])
    x[1, 1:] = math.nan
    parts = [traced(layer, x[k : k + 3], lengths[k : k + 3]) for k in (0, 3)]
    found = gate_statistics(parts[:1]) + gate_statistics(iter(parts[1:]))
    assert [*found.layers] == [Place("model", n, d) for n in range(2) for d in range(2)]
    whole = {
        name: [
            [torch.cat([part[name][n][d] for part in parts]) for d in range(2)] for n in range(2)
        ]
        for name in parts[0]
    }
    valid = np.arange(9) < lengths.numpy()[:, None]
    for (_, n, d), each in found.layers.items():
        assert (each.steps, each.sequences, each.moves) == (26, 5, 21)
        assert set(each.values) == set(whole)
        for value, has in each.values.items():
            steps = whole[value][n][d].numpy()[valid]
            assert has.count == 26
            assert has.mean == pytest.approx(steps.mean(0), rel=1e-5, abs=1e-7)
            assert has.std == pytest.approx(steps.std(0), rel=1e-4, abs=1e-7)
            assert (has.least == steps.min(0)).all()
            assert (has.greatest == steps.max(0)).all()
            edges = has.edges.astype(np.float32)
            for unit in range(5):
                inside = np.histogram(steps[:, unit].astype(float), edges.astype(float))[0]
                assert (has.histogram[unit] == inside).all()
            if has.bounded:
                tenth = np.float32(has.range[0] + 0.1 * (has.range[1] - has.range[0]))
                assert (has.low == (steps < tenth).sum(0)).all()
                assert (has.high == has.histogram[:, 18:].sum(1)).all()
        for state, drift in each.drift.items():
            value = whole[state][n][d].numpy()
            ends = [(value[b, k - 1] - value[b, 0]) for b, k in enumerate(lengths) if k]
            assert drift == pytest.approx((1, -1)[d] * sum(ends) / 21, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("range_of", [(0.0, 1.0), (-2.0, 2.0), (-math.inf, math.inf)])
def test_values_at_the_edges_of_a_histogram_are_in_the_upper_bin(range_of, dtype):
    edges = torch.from_numpy(statistics_of(torch.zeros(1, 1), range_of).edges[1:-1]).to(dtype)
    up, down = (edges.nextafter(torch.tensor(end, dtype=dtype)) for end in (9.0, -9.0))
    x = torch.cat([edges, up, down, torch.tensor([-300.0, 300.0], dtype=dtype)])[:, None]
    found = statistics_of(x, range_of).histogram[0]
    expected = torch.bucketize(x[:, 0], edges, right=True).bincount(minlength=20)
    assert found.tolist() == expected.tolist()


def test_scatter_of_parts_with_other_means_is_that_of_the_whole():
    torch.manual_seed(0)
    x = torch.randn(30, 4) * torch.tensor([1.0, 2.0, 0.5, 1.0])
    x[:10] += 3
    whole, merged = Scatter.of(x), Scatter.of(x[:10]).merged(Scatter.of(x[10:]))
    assert merged.matrix == pytest.approx(whole.matrix)
    assert merged.mean == pytest.approx(whole.mean)
    singular = np.linalg.svd((x - x.mean(0)).numpy(), compute_uv=False)
    share = singular / singular.sum()
    assert merged.effective_rank() == pytest.approx(
        np.exp(-(share * np.log(share)).sum()), rel=1e-4
    )


def test_closed_open_and_dead_units_are_found():
    layer = planted((0.05, 0.5, 0.97))
    with torch.no_grad():
        layer.weight_ih_l0[9:] = 0
        layer.bias_ih_l0[9:] = torch.tensor([-20.0, 0, 0])
        layer.bias_hh_l0[9:] = 0
    found = gate_statistics(traced(layer, torch.randn(3, 20, 2))).layers[Place("model", 0, 0)]
    assert found.gates == ("i", "f", "o")
    assert found.closed("f").tolist() == [True, False, False]
    assert found.open("f").tolist() == [False, False, True]
    assert found.closed("o").tolist() == found.dead.tolist() == [True, False, False]
    assert "1 units always closed, 1 always open" in repr(Statistics({Place("m", 0, 0): found}))
    with pytest.raises(
        OptionError, match="'c' has no saturation; values with a finite range are: i, f"
    ):
        found.closed("c")


def test_the_effective_rank_is_the_number_of_free_dimensions():
    """Eight units that show three independent inputs of equal size; and all alike."""
    torch.manual_seed(0)
    layer = gw.RNN(3, 9, batch_first=True, dtype=torch.float64)
    turn = torch.linalg.qr(torch.randn(9, 9, dtype=torch.float64))[0][:, :3]
    with torch.no_grad():
        for weight in layer.parameters():
            weight.zero_()
        layer.weight_ih_l0.copy_(1e-3 * turn)
    x = torch.randn(50, 40, 3, dtype=torch.float64)
    three = gate_statistics(traced(layer, piece) for piece in x.split(13))
    assert three.layers[Place("model", 0, 0)].effective_rank == pytest.approx(3, abs=0.02)
    with torch.no_grad():
        layer.weight_ih_l0.copy_(1e-3 * torch.ones(9, 3))
    one = gate_statistics(traced(layer, x)).layers[Place("model", 0, 0)]
    assert one.effective_rank == pytest.approx(1, abs=1e-3)


def test_the_gates_of_every_cell_follow_from_its_equations():
    kept = {
        name: {state: factor for state, factor in retention(cell).items() if factor is not None}
        for name, cell in gw.CELLS.items()
    }
    assert gates_of(gw.CELLS["lstm"]) == gates_of(gw.CELLS["slstm"])[:3] == ("i", "f", "o")
    assert gates_of(gw.CELLS["minlstm"]) == ("f", "i", "kept")
    assert gates_of(gw.CELLS["rnn_tanh"]) == () == tuple(kept["rnn_tanh"])
    for name in ("lstm", "peephole", "cifg", "noaf", "fgr", "slstm"):
        cell = gw.CELLS[name]
        assert kept[name]["c"] is cell.values["f"], name
    assert kept["gru"]["h"] is gw.CELLS["gru"].values["z"]
    assert kept["nfg"]["c"].number == 1
    assert set(kept["lem"]) == {"h", "z"}
    squashed = bounds(gw.CELLS["lstm_1997"].values.values())
    assert squashed[gw.CELLS["lstm_1997"].values["g"]] == pytest.approx((-2, 2))


def test_a_cell_of_the_users_own_has_its_time_scale():
    """c keeps 1 - k of its old value, minus a tenth; the factor is found through sums and signs."""

    @gw.cell(gates="k n", state="h c")
    def leaky(a, s):
        k, n = gw.sigmoid(a.k), gw.tanh(a.n)
        c = k * n - (k * s.c - s.c) - 0.1 * s.c
        return dict(k=k, n=n, c=c, h=gw.tanh(c))

    layer = gw.Recurrent(leaky, 1, 2, batch_first=True, backend="reference")
    with torch.no_grad():
        for weight in layer.parameters():
            weight.zero_()
        layer.bias_ih_l0[:2] = torch.tensor([logit(0.1), logit(0.4)])
    found = gate_statistics(traced(layer, torch.randn(1, 5, 1))).layers[Place("model", 0, 0)]
    assert found.gates == ("k",)
    assert found.time_scale["c"] == pytest.approx([-1 / math.log(0.8), -1 / math.log(0.5)])


def test_what_is_never_forgotten_has_no_end():
    layer = gw.Recurrent("nfg", 1, 2, batch_first=True)
    found = gate_statistics(traced(layer, torch.randn(1, 5, 1))).layers[Place("model", 0, 0)]
    assert found.time_scale["c"].tolist() == [math.inf, math.inf]


def test_bad_input_gives_no_number():
    layer = planted()
    x = torch.randn(2, 6, 2)
    with pytest.raises(DataError, match="no steps"):
        gate_statistics(traced(layer, x, torch.tensor([0, 0])))
    with pytest.raises(DataError, match="no steps"):
        gate_statistics([])
    x[1, 3] = math.nan
    known = Statistics()
    with pytest.raises(
        DataError, match="'i' of model, layer 0 is infinite or NaN at step 3 of sequence 1"
    ):
        known.update(traced(layer, x))
    assert known.layers == {}
    assert repr(known) == "<statistics of no steps>"
    first = gate_statistics(traced(layer, x[:1]))
    with pytest.raises(
        OptionError, match=r"model, layer 0 had the units .* statistics are those of one"
    ):
        first.update(traced(gw.LSTM(2, 4, batch_first=True), x[:1]))
    with pytest.raises(OptionError, match=r"expected traces, as gw.trace\(model, x\).* not Tensor"):
        Statistics().update(x)


def test_a_large_trace_is_read_in_parts_with_the_same_result(monkeypatch):
    torch.manual_seed(0)
    x, lengths = torch.randn(7, 9, 2), torch.tensor([9, 3, 0, 5, 9, 1, 2])
    trace = traced(planted(bidirectional=True), x, lengths)
    whole = gate_statistics(trace)
    monkeypatch.setattr("gatewise.gates.directions._MOST", 2 * 9 * 3)
    parts = gate_statistics(trace)
    for place, layer in whole.layers.items():
        assert parts.layers[place].steps == layer.steps
        for name, value in layer.values.items():
            assert (parts.layers[place].values[name].histogram == value.histogram).all()
            assert parts.layers[place].values[name].std == pytest.approx(value.std)
        assert parts.layers[place].drift["c"] == pytest.approx(layer.drift["c"])
    trace.f[0][1][4, 2, 1] = math.nan
    with pytest.raises(
        DataError, match=r"'f' of model, layer 0, reverse .* at step 2 of sequence 4"
    ):
        gate_statistics(trace)
