"""A layer a step at a time, and a whole module in one call of the core."""

import copy
import pickle

import numpy as np
import pytest
import torch

import gatewise as gw
from cells import OWN_CELLS
from gatewise.errors import BackendError, OptionError, ShapeError

pytestmark = pytest.mark.usefixtures("one_thread")

LAYERS = {
    "lstm": dict(cell="lstm"),
    "stacked": dict(cell="lstm", num_layers=3),
    "projected": dict(cell="lstm", proj_size=5, num_layers=2),
    "normalised": dict(cell="lstm", layer_norm=True),
    "zoneout": dict(cell="lstm", zoneout=(0.3, 0.1)),
    "gru": dict(cell="gru", num_layers=2, bias=False),
    "rnn": dict(cell="rnn_relu"),
    "own": dict(cell=OWN_CELLS["own_peephole"]),
    "double": dict(cell="gru", dtype=torch.float64),
}


def make(options, **more):
    torch.manual_seed(0)
    return gw.Recurrent(input_size=7, hidden_size=19, **options, **more).eval()


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("options", LAYERS.values(), ids=LAYERS)
def test_a_stream_is_the_layer_step_by_step(options, batch):
    layer = make(options)
    x = torch.randn(11, batch, 7, dtype=options.get("dtype"))
    with torch.no_grad():
        expected, state = layer(x)
    stream = layer.stream(batch)
    for row, output in zip(x, expected, strict=True):
        np.testing.assert_allclose(stream.step(row.numpy()), output.numpy(), rtol=0, atol=1e-6)
    torch.testing.assert_close(stream.state, state, rtol=0, atol=1e-6)


def test_one_sequence_needs_no_batch_dimension():
    stream = make(LAYERS["lstm"]).stream()
    row = np.linspace(-1, 1, 7, dtype=np.float32)
    first = stream.step(row)
    stream.reset()
    assert first.shape == (19,)
    np.testing.assert_array_equal(stream.step(row[None]), first[None])


def test_a_streams_state_can_be_taken_and_given_back():
    layer = make(LAYERS["stacked"])
    rows = np.random.default_rng(0).normal(size=(6, 7)).astype(np.float32)
    stream = layer.stream()
    for row in rows[:3]:
        stream.step(row)
    kept = stream.state
    rest = [stream.step(row) for row in rows[3:]]
    other = layer.stream()
    other.state = kept
    np.testing.assert_array_equal(np.stack([other.step(row) for row in rows[3:]]), np.stack(rest))
    assert not torch.equal(kept[0], stream.state[0])  # a copy, not the stream's own


def test_a_stream_keeps_the_weights_it_was_made_with():
    layer = make(LAYERS["lstm"])
    row = np.ones(7, np.float32)
    before, stream = layer.stream().step(row), layer.stream()
    with torch.no_grad():
        layer.weight_ih_l0.zero_()
    np.testing.assert_array_equal(stream.step(row), before)
    assert not np.array_equal(layer.stream().step(row), before)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (np.zeros(3, np.float32), r"shape \(7,\) or \(1, 7\), not a ndarray of shape \(3,\)"),
        (np.zeros(7), "contiguous float32 array .* dtype float64"),
        (np.zeros(14, np.float32)[::2], "contiguous"),
        (np.zeros((2, 7), np.float32), r"of shape \(2, 7\)"),
        ([0.0] * 7, r"not a list"),
        (None, "NoneType"),
    ],
)
def test_a_row_that_does_not_fit(row, message):
    stream = make(LAYERS["lstm"]).stream()
    stream.step(np.ones(7, np.float32))
    before = stream.state
    with pytest.raises(ShapeError, match=message):
        stream.step(row)
    torch.testing.assert_close(stream.state, before, rtol=0, atol=0)


def test_what_cannot_stream():
    with pytest.raises(OptionError, match="bidirectional layer cannot stream"):
        make(LAYERS["lstm"], bidirectional=True).stream()
    with pytest.raises(OptionError, match="batch must be a positive integer, not 0"):
        make(LAYERS["lstm"]).stream(0)
    with pytest.raises(BackendError, match=r"torch\.bfloat16"):
        make(LAYERS["lstm"], dtype=torch.bfloat16).stream()
    stream = make(LAYERS["lstm"]).stream()
    with pytest.raises(ShapeError, match=r"lstm has the states \(h, c\); 1 were given"):
        stream.state = torch.zeros(1, 1, 19)
    with pytest.raises(ShapeError, match=r"the state c has the shape .*expected \(1, 1, 19\)"):
        stream.state = (torch.zeros(1, 1, 19), torch.zeros(1, 1, 7))


def by_layers(layer, *given):
    """What the layer gives where a gradient may be asked for: not in one call."""
    output, state = layer(*given)
    states = state if isinstance(state, tuple) else (state,)
    return output.detach(), tuple(s.detach() for s in states)


@pytest.mark.pairwise
@pytest.mark.parametrize("given_state", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("both_ways", [False, True])
@pytest.mark.parametrize("options", LAYERS.values(), ids=LAYERS)
@pytest.mark.parametrize(("steps", "batch"), [(1, 1), (2, 1), (9, 4), (0, 2), (3, 0)])
def test_in_one_call(options, both_ways, batch_first, given_state, steps, batch):
    layer = make(options, bidirectional=both_ways, batch_first=batch_first)
    dtype = options.get("dtype")
    x = (
        torch.randn(batch, steps, 7, dtype=dtype)
        if batch_first
        else torch.randn(steps, batch, 7, dtype=dtype)
    )
    given = (x,)
    if given_state:
        like = by_layers(layer, x)[1]
        states = tuple(torch.randn_like(s) for s in like)
        given = (x, states if len(states) > 1 else states[0])
    expected = by_layers(layer, *given)
    with torch.no_grad():
        output, state = layer(*given)
    found = output, state if isinstance(state, tuple) else (state,)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_whatever_happens_to_the_weights_is_seen():
    layer = make(LAYERS["lstm"])
    x = torch.randn(3, 2, 7)

    def check():
        with torch.no_grad():
            found = layer(x)[0]
        torch.testing.assert_close(found, by_layers(layer, x)[0], rtol=0, atol=1e-6)
        return found

    first = check()
    layer.weight_ih_l0.data.mul_(2)  # no version counter sees this
    second = check()
    assert not torch.equal(first, second)
    layer.weight_hh_l0.data = torch.randn(19, 76).t()  # not contiguous
    check()
    layer.bias_ih_l0 = torch.nn.Parameter(torch.randn(76))
    check()
    torch.nn.utils.parametrizations.weight_norm(layer, "weight_ih_l0")
    check()
    copied = pickle.loads(pickle.dumps(copy.deepcopy(make(LAYERS["stacked"]))))
    with torch.no_grad():
        torch.testing.assert_close(copied(x)[0], make(LAYERS["stacked"])(x)[0], rtol=0, atol=0)
    layer = make(LAYERS["lstm"])
    layer.weight_hh_l0.data = torch.zeros(3, 3)
    with pytest.raises(ShapeError, match="weight_hh_l0"), torch.no_grad():
        layer(x)


def test_one_call_changes_no_rule():
    layer = make(LAYERS["lstm"])
    with torch.no_grad():
        with pytest.raises(ShapeError, match="input_size=7"):
            layer(torch.zeros(3, 2, 6))
        with pytest.raises(ShapeError, match="float64"):
            layer(torch.zeros(3, 2, 7, dtype=torch.float64))
        with pytest.raises(ShapeError, match="initial state c"):
            layer(torch.zeros(3, 2, 7), (torch.zeros(1, 2, 19), torch.zeros(1, 3, 19)))
        vmapped = torch.func.vmap(lambda x: layer(x)[0])(torch.ones(2, 3, 1, 7))
        torch.testing.assert_close(vmapped[0], layer(torch.ones(3, 1, 7))[0])
        zoned = make(LAYERS["lstm"], zoneout=1.0).train()
        assert not zoned(torch.ones(3, 2, 7))[0].any()


@pytest.mark.parametrize("options", LAYERS.values(), ids=LAYERS)
def test_sequences_of_a_stream_are_chosen_and_repeated(options):
    layer = make(options)
    stream, dtype = layer.stream(5), options.get("dtype")
    read = torch.zeros(0, 5, 7, dtype=dtype)
    for rows in ([0, 1, 2, 3, 4], [4, 1], [1, 1, 0, 1], [3], [0, 0, 0, 0, 0], [2, 4]):
        stream.select(torch.tensor(rows))
        read = torch.cat([read[:, rows], torch.randn(1, len(rows), 7, dtype=dtype)])
        with torch.no_grad():
            expected, state = layer(read)
        output = stream.step(read[-1])
        np.testing.assert_allclose(output, expected[-1].numpy(), rtol=0, atol=1e-6)
        torch.testing.assert_close(stream.state, state, rtol=0, atol=1e-6)


def test_a_stream_of_fewer_sequences_is_set_and_reset():
    layer = make(LAYERS["stacked"])
    stream, row = layer.stream(4), torch.randn(2, 7)
    stream.step(torch.randn(4, 7))
    stream.select(torch.tensor([2, 1]))
    kept = stream.state
    again = stream.step(row)
    stream.state = kept
    np.testing.assert_array_equal(stream.step(row), again)
    stream.reset()
    stream.select(torch.tensor([0, 1, 0, 1]))
    assert all(not s.any() and s.shape == (3, 4, 19) for s in stream.state)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (torch.tensor([0, 1, 0, 1]), r"1 to 3 indices .* not a tensor of shape \(4,\)"),
        (torch.zeros(0, dtype=torch.long), r"1 to 3 indices"),
        (torch.tensor([0.0]), r"dtype torch\.float32"),
        (torch.tensor([[0]]), r"shape \(1, 1\)"),
        (torch.tensor([1, 2]), "from 0 to 1, not 2"),
        (torch.tensor([0, -1]), "from 0 to 1, not -1"),
    ],
)
def test_rows_that_cannot_be_chosen(rows, message):
    stream = make(LAYERS["lstm"]).stream(3)
    stream.select(torch.tensor([0, 1]))
    with pytest.raises(ShapeError, match=message):
        stream.select(rows)
