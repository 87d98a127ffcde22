"""Weights that are stored otherwise than as G·H×F: restricted connections, shared gates, blocks of units."""

import copy
import io
import re

import numpy as np
import pytest
import torch
from torch import nn

import gatewise as gw
from gatewise import detach, sigmoid, tanh
from gatewise.errors import OptionError, ShapeError

pytestmark = pytest.mark.usefixtures("one_thread")


@gw.cell(gates="i g o", state="h i o c", feedback="h i o", shared_gates="i o")
def block_of_1997(a, s):
    """Every cell and gate sees every cell and gate, and the gradient is whole."""
    i, o = sigmoid(a.i), sigmoid(a.o)
    c = s.c + i * tanh(a.g)
    return dict(i=i, o=o, c=c, h=o * tanh(c))


@gw.cell(
    gates="i f g o",
    state="h i c f",
    feedback={"h": "i g o", "f": "f i", "i": "o"},
    params="w",
    shared_gates="f",
)
def sparse(a, s, p):
    """Some states reach some gates, in another order than the states have; only f is shared."""
    i, f = sigmoid(a.i + p.w * s.c), sigmoid(a.f)
    c = f * s.c + i * tanh(a.g)
    return dict(i=i, f=f, c=c, h=sigmoid(a.o) * tanh(c))


@gw.cell(gates="i g o", state="h c i", feedback="h i", shared_gates="i")
def projectable(a, s):
    i = sigmoid(a.i)
    c = 0.5 * s.c + i * tanh(a.g)
    return dict(i=i, c=c, h=sigmoid(a.o) * tanh(c))


@gw.cell(gates="u v", shared_gates="u")
def without_feedback(a, s):
    u = sigmoid(a.u.x)
    return dict(h=u * s.h + (1 - u) * a.v.x)


def plainly(cell):
    """The same equations, every state fed to every gate and nothing shared: a function of the graph."""
    lists = dict(gates=cell.gates, state=cell.state, params=cell.params)
    named = {kind: " ".join(names) for kind, names in lists.items()}
    values = dict(cell.values)
    return gw.cell(**named, feedback=" ".join(cell.feedback), name=cell.name + "_plainly")(
        (lambda a, s, p: values) if cell.params else (lambda a, s: values)
    )


CASES = {
    "fed": dict(cell=sparse),
    "fgr": dict(cell="fgr"),
    "shared": dict(cell=block_of_1997, block_size=3),
    "shared and fed": dict(cell=sparse, block_size=2),
    "1997, truncated": dict(cell="lstm_1997_truncated", block_size=2),
    "blocks": dict(cell="lstm", recurrent_blocks=3),
    "blocks of one": dict(cell="gru", recurrent_blocks=6),
    "late blocks": dict(cell="gru_2014", recurrent_blocks=2),
    "blocks and fed": dict(cell=sparse, recurrent_blocks=2),
    "all": dict(cell=sparse, block_size=3, recurrent_blocks=2),
    "projected": dict(cell=projectable, proj_size=4, block_size=3, recurrent_blocks=2),
}
H, INPUTS = 6, 5


def make(options, **more):
    torch.manual_seed(3)
    dtype = more.pop("dtype", torch.float64)
    return gw.Recurrent(input_size=INPUTS, hidden_size=H, dtype=dtype, **options, **more)


# The map between stored and full, entry by entry from the definitions -----------------------------

# which fed-back states have one value for a block, written down by hand
PER_BLOCK = {
    sparse.name: {"f"},
    block_of_1997.name: {"i", "o"},
    "lstm_1997_truncated": {"y_i", "y_o"},
    projectable.name: {"i"},
}


def row_of(layer):
    """For each gate's unit the stored row, in the order of the full rows."""
    rows, first = [], 0
    for gate in layer.cell.gates:
        size = layer.block_size if gate in layer.cell.shared_gates else 1
        rows += [first + unit // size for unit in range(layer.hidden_size)]
        first += layer.hidden_size // size
    return rows


def entries_of(layer):
    """G·H×F: the stored row and column of each full entry, or None."""
    cell, heads = layer.cell, layer.recurrent_blocks
    rows = row_of(layer)
    table = [[] for _ in rows]
    for k, row in enumerate(rows):
        gate, unit = cell.gates[k // layer.hidden_size], k % layer.hidden_size
        own = unit // (layer.hidden_size // heads)
        first = 0
        for state in cell.feedback:
            projected = state == cell.state[0] and layer.proj_size
            width = layer.proj_size if projected else layer.hidden_size
            every = layer.block_size if state in PER_BLOCK.get(cell.name, ()) else 1
            stored = width // every // heads
            for j in range(width):
                seen = (
                    gate in cell.connections[state]
                    and j // (width // heads) == own
                    and j % every == 0
                )
                table[k].append((row, first + j % (width // heads) // every) if seen else None)
            first += stored
    return table


def expanded(layer, name, weight):
    """The full weight, by copying one number after another."""
    given = weight.detach().numpy()
    if name.startswith("weight_hh"):
        full = [[0.0 if e is None else given[e] for e in row] for row in entries_of(layer)]
    elif name.startswith(("weight_ih", "bias", "norm")):
        full = given[row_of(layer)]
    else:
        full = given
    return torch.tensor(np.array(full))


def contracted(layer, name, gradient):
    """The stored weight's gradient: the sum over the places that it stands in."""
    given = gradient.numpy()
    out = np.zeros(layer.get_parameter(name).shape)
    if name.startswith("weight_hh"):
        for k, row in enumerate(entries_of(layer)):
            for j, entry in enumerate(row):
                if entry is not None:
                    out[entry] += given[k, j]
    elif name.startswith(("weight_ih", "bias", "norm")):
        for k, row in enumerate(row_of(layer)):
            out[row] += given[k]
    else:
        out = given
    return torch.tensor(out)


def twin(layer, **options):
    """A layer that has no structure, with the full weights."""
    kept = ("num_layers", "bidirectional", "proj_size", "layer_norm", "bias", "zoneout")
    options |= {name: getattr(layer, name) for name in kept}
    made = gw.Recurrent(plainly(layer.cell), INPUTS, H, dtype=torch.float64, **options)
    full = {name: expanded(layer, name, w) for name, w in layer.named_parameters()}
    made.load_state_dict(full, strict=True)
    return made


RUNS = {
    "plain": dict(),
    "both ways": dict(bidirectional=True, num_layers=2),
    "normalised, no bias": dict(layer_norm=True, bias=False),
    "zoneout": dict(zoneout=0.3),
}


@pytest.mark.pairwise
@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
def test_outputs_and_gradients_are_those_of_the_full_matrices(options, run, backend):
    cell = gw.CELLS.get(options["cell"], options["cell"])
    if run.get("layer_norm") and cell.second_stage and backend == "cpu":
        backend = "auto"  # which normalises late gates on the reference
    layer = make(options, backend=backend, **run).eval()
    with torch.no_grad():
        for name, weight in layer.named_parameters():
            if name.startswith("norm"):
                weight.uniform_(0.5, 1.5)
    other = twin(layer).eval()
    assert not layer._structure.plain
    assert other._structure.plain
    x = torch.randn(7, 2 * INPUTS, 4, dtype=torch.float64).transpose(1, 2)[..., ::2]
    reset = torch.rand(7, 4) < 0.2
    results = []
    for each in (layer, other):
        leaf = x.detach().requires_grad_()
        hx = [
            torch.linspace(-1, 1, s.numel(), dtype=s.dtype).reshape(s.shape).requires_grad_()
            for s in each._initial_states(None, leaf, True)
        ]
        given = tuple(hx) if len(hx) > 1 else hx[0]
        output, state = each(leaf, given, lengths=[7, 0, 1, 4], reset=reset)
        ends = [output, *(state if isinstance(state, tuple) else (state,))]
        loss = sum((e * torch.arange(e.numel()).reshape(e.shape).cos()).sum() for e in ends)
        wanted = [leaf, *hx, *each.parameters()]
        grads = torch.autograd.grad(loss, wanted, allow_unused=True, materialize_grads=True)
        results.append((ends, list(grads)))
    (ends, grads), (true_ends, true_grads) = results
    torch.testing.assert_close(ends, true_ends, rtol=1e-10, atol=1e-10)
    names = [name for name, _ in layer.named_parameters()]
    beside = len(grads) - len(names)
    expected = true_grads[:beside] + [
        contracted(layer, name, g) for name, g in zip(names, true_grads[beside:], strict=True)
    ]
    torch.testing.assert_close(grads, expected, rtol=1e-9, atol=1e-9)
    assert all(g.any() for name, g in zip(names, grads[beside:], strict=True) if "weight" in name)


@pytest.mark.parametrize(("steps", "batch"), [(1, 1), (0, 2), (3, 0)])
@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
def test_awkward_sizes(options, steps, batch):
    layer = make(options)
    x = torch.randn(steps, batch, INPUTS, dtype=torch.float64)
    torch.testing.assert_close(layer(x), twin(layer)(x), rtol=1e-10, atol=1e-10)


# What it means, by hand ---------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_blocks_of_units_are_layers_of_their_own(backend):
    """xLSTM's heads: outputs and gradients of torch's LSTM, one for each block."""
    torch.manual_seed(0)
    layer = gw.LSTM(3, 8, recurrent_blocks=4, dtype=torch.float64, backend=backend)
    assert layer.weight_hh_l0.shape == (32, 2)
    heads = [nn.LSTM(3, 2, dtype=torch.float64) for _ in range(4)]

    def own(tensor, k):
        return tensor.unflatten(0, (4, 4, 2))[:, k].flatten(0, 1)

    with torch.no_grad():
        for k, head in enumerate(heads):
            for name, weight in head.named_parameters():
                weight.copy_(own(layer.get_parameter(name), k))
    x = torch.randn(5, 3, 3, dtype=torch.float64, requires_grad=True)
    output, (h, c) = layer(x)
    apart = [head(x) for head in heads]
    expected = [torch.cat(each, -1) for each in zip(*((y, *s) for y, s in apart), strict=True)]
    torch.testing.assert_close([output, h, c], expected, rtol=1e-10, atol=1e-10)
    (output.sin().sum() + c.sum()).backward()
    given, x.grad = x.grad, None
    (expected[0].sin().sum() + expected[2].sum()).backward()
    torch.testing.assert_close(given, x.grad, rtol=1e-10, atol=1e-10)
    for k, head in enumerate(heads):
        for name, weight in head.named_parameters():
            torch.testing.assert_close(own(layer.get_parameter(name).grad, k), weight.grad)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_memory_cell_blocks_of_1997(backend):
    """Two blocks of three cells, each block with one input and one output gate, in NumPy."""
    layer = make(dict(cell=block_of_1997, block_size=3), backend=backend)
    w, u, b, b2 = (p.detach().numpy() for p in layer.parameters())
    assert w.shape == (2 + 6 + 2, INPUTS)
    assert u.shape == (10, 6 + 2 + 2)
    x = np.random.default_rng(0).normal(size=(4, INPUTS))
    y, y_in, y_out, s = np.zeros(6), np.zeros(2), np.zeros(2), np.zeros(6)

    def logistic(net):
        return 1 / (1 + np.exp(-net))

    expected = []
    for step in x:
        net = w @ step + b + u @ np.concatenate([y, y_in, y_out]) + b2
        y_in, y_out = logistic(net[:2]), logistic(net[8:])
        for block in range(2):
            for cell in range(3):
                j = 3 * block + cell
                s[j] += y_in[block] * np.tanh(net[2 + j])
                y[j] = y_out[block] * np.tanh(s[j])
        expected.append(y.copy())
    output, (h, i, o, c) = layer(torch.tensor(x))
    np.testing.assert_allclose(output.detach(), expected, rtol=1e-12)
    ends = [y, np.repeat(y_in, 3), np.repeat(y_out, 3), s]
    for found, true in zip((h, i, o, c), ends, strict=True):
        np.testing.assert_allclose(found.detach()[0], true, rtol=1e-12)


@pytest.mark.parametrize(
    ("blocks", "size", "inputs", "outputs", "biases", "weights"),
    [
        (4, 1, 7, 7, "gates", 264),  # table 1: the embedded Reber grammar
        (3, 2, 7, 7, "gates", 276),
        (2, 2, 2, 1, "all", 93),  # table 7: adding
        (2, 2, 8, 4, "all", 156),  # table 9: temporal order with two symbols, three below
        (3, 2, 8, 8, "all", 308),
    ],
)
@pytest.mark.parametrize("cell", [block_of_1997, "lstm_1997_truncated"], ids=str)
def test_weights_are_counted_as_in_the_paper(cell, blocks, size, inputs, outputs, biases, weights):
    """Hochreiter & Schmidhuber 1997, section 5: the layer's, and those of its linear output units,
    which see the cells alone. The paper has one bias where torch has two."""
    units = blocks * size
    layer = gw.Recurrent(cell, inputs, units, bias=True, block_size=size)
    per_unit = layer.bias_ih_l0.numel()
    assert per_unit == 2 * blocks + units
    bias = 2 * blocks if biases == "gates" else per_unit + outputs
    counted = layer.weight_ih_l0.numel() + layer.weight_hh_l0.numel() + units * outputs + bias
    assert counted == weights
    without = gw.Recurrent(cell, inputs, units, bias=False, block_size=size)
    assert sum(p.numel() for p in without.parameters()) == counted - units * outputs - bias


@pytest.mark.parametrize("options", [CASES["fed"], CASES["fgr"], CASES["all"]])
def test_what_is_not_connected_never_acts_and_is_never_changed(options):
    layer = make(options, num_layers=2)
    stored = {entry for row in entries_of(layer) for entry in row if entry is not None}
    hidden = [
        (r, c)
        for r in range(layer.weight_hh_l1.shape[0])
        for c in range(layer.weight_hh_l1.shape[1])
        if (r, c) not in stored
    ]
    assert hidden
    for weight in (layer.weight_hh_l0, layer.weight_hh_l1):
        assert not any(weight[place] for place in hidden)
        assert all(weight[place] for place in stored)
    x = torch.randn(3, 2, INPUTS, dtype=torch.float64)
    before = layer(x)[0].detach()
    with torch.no_grad():
        for place in hidden:
            layer.weight_hh_l1[place] = torch.nan
    output = layer(x)[0]
    assert torch.equal(output, before)
    output.sum().backward()
    assert not any(layer.weight_hh_l1.grad[place] for place in hidden)
    layer.reset_parameters()
    assert not any(layer.weight_hh_l1[place] for place in hidden)


def test_a_shared_gate_that_sees_what_is_each_cells_own_has_every_column():
    """One column a block needs a state that rests on shared gates alone."""

    @gw.cell(gates="i g", state="h i c k m", feedback="i c k m", shared_gates="i", params="p")
    def seeing(a, s, p):
        i = sigmoid(a.i + p.p * s.c)
        c = s.c + i * tanh(a.g)
        return dict(i=i, c=c, k=detach(1 - sigmoid(a.i)), m=tanh(a.g), h=i * c)

    layer = gw.Recurrent(seeing, 3, 6, block_size=3)
    assert layer.weight_hh_l0.shape == (2 + 6, 6 + 6 + 2 + 6)
    gate = gw.cell(gates="i", shared_gates="i")(lambda a, s: dict(h=sigmoid(a.i)))
    assert gw.Recurrent(gate, 3, 6, block_size=3).weight_hh_l0.shape == (2, 2)
    projected = gw.Recurrent(gate, 3, 6, block_size=3, proj_size=4)  # of a block no more one value
    assert projected.weight_hh_l0.shape == (2, 4)
    assert projected(torch.randn(2, 1, 3))[0].shape == (2, 1, 4)


def test_a_late_gate_has_a_column_for_each_value_that_it_is_fed_with():
    """Though the state in whose place that value stands is the same for all cells of a block."""

    @gw.cell(gates="i n", state="h k", feedback="k", shared_gates="i")
    def fed(a, s):
        k = sigmoid(a.i)
        return dict(k=k, h=tanh(a.n.recurrent(k + 0.5 * s.h)))

    layer = make(dict(cell=fed, block_size=3))
    w, u, b, b2 = layer.parameters()
    assert u.shape == (2 + 6, 6)
    x = torch.randn(4, 1, INPUTS, dtype=torch.float64)
    h = k = torch.zeros(1, 6, dtype=torch.float64)
    for t in range(4):
        early = (x[t] @ w[:2].T + b[:2] + k @ u[:2].T + b2[:2]).repeat_interleave(3, -1)
        k = torch.sigmoid(early)
        h = torch.tanh(x[t] @ w[2:].T + b[2:] + (k + 0.5 * h) @ u[2:].T + b2[2:])
        torch.testing.assert_close(layer(x[: t + 1])[0][t], h)


# What else a layer has ----------------------------------------------------------------------------


@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
def test_copies_saved_weights_one_call_and_streams(options):
    layer = make(options, num_layers=2).eval()
    x = torch.randn(5, 1, INPUTS, dtype=torch.float64)
    expected = layer(x)[0].detach()
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    loaded = make(options, num_layers=2)
    loaded.reset_parameters()
    assert not torch.equal(loaded(x)[0], expected)
    loaded.load_state_dict(torch.load(file, weights_only=True), strict=True)
    for each in (loaded, copy.deepcopy(layer)):
        assert torch.equal(each(x)[0], expected)
        with torch.no_grad():
            torch.testing.assert_close(each(x)[0], expected, rtol=0, atol=1e-12)
        stream = each.stream()
        rows = [stream.step(row.numpy()) for row in x]
        np.testing.assert_allclose(np.stack(rows), expected, rtol=0, atol=1e-12)
    names = [name for name, _ in layer.named_parameters()]
    assert names == [name for name, _ in twin(layer).named_parameters()]


@pytest.mark.parametrize("options", [CASES["all"], CASES["blocks"]])
def test_compiled_cast_and_called_with_other_weights(options):
    layer = make(options, dtype=torch.float32)
    x = torch.randn(5, 2, INPUTS)
    expected = layer(x)[0]
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x)[0], expected)
    zero = {name: torch.zeros_like(p) for name, p in layer.named_parameters()}
    assert not torch.func.functional_call(layer, zero, x)[0].any()
    with torch.autocast("cpu", torch.bfloat16):
        output = layer(x)[0]
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output.float(), expected, rtol=0.05, atol=0.03)
    with pytest.raises(ShapeError, match="weight_hh_l0 has the shape"):
        torch.func.functional_call(layer, zero | {"weight_hh_l0": torch.zeros(24, 6)}, x)


def test_recurrent_dropout_and_blocks():
    """The cells' dropped values are those of H, not of what is stored."""
    layer = make(CASES["shared"], recurrent_dropout=1.0)
    other = twin(layer)
    with torch.no_grad():
        other.weight_hh_l0.zero_()
    x = torch.randn(4, 3, INPUTS, dtype=torch.float64)
    torch.testing.assert_close(layer(x), other(x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("block_size", [1, 2])
def test_no_recurrent_part(block_size):
    layer = gw.Recurrent(
        without_feedback, 3, 6, num_layers=2, block_size=block_size, dtype=torch.float64
    )
    rows = 6 + 6 // block_size
    assert {name: tuple(p.shape) for name, p in layer.named_parameters()} == {
        "weight_ih_l0": (rows, 3), "weight_hh_l0": (rows, 0), "bias_ih_l0": (rows,),
        "weight_ih_l1": (rows, 6), "weight_hh_l1": (rows, 0), "bias_ih_l1": (rows,),
    }  # fmt: skip
    x = torch.randn(4, 2, 3, dtype=torch.float64)
    below, h = x, torch.zeros(2, 6, dtype=torch.float64)
    for k in range(2):
        w, b = (layer.get_parameter(f"{name}_l{k}") for name in ("weight_ih", "bias_ih"))
        u, v = (below @ w.T + b).split([6 // block_size, 6], -1)
        u, h, seen = torch.sigmoid(u).repeat_interleave(block_size, -1), torch.zeros(2, 6), []
        for t in range(4):
            h = u[t] * h + (1 - u[t]) * v[t]
            seen.append(h)
        below = torch.stack(seen)
    for backend in ("auto", "cpu", "reference"):
        layer.backend = backend
        torch.testing.assert_close(layer(x)[0], below, rtol=1e-10, atol=1e-10)
        with torch.no_grad():
            torch.testing.assert_close(layer(x)[0], below, rtol=1e-10, atol=1e-10)
    layer(x)[0].sum().backward()
    normed = gw.Recurrent(without_feedback, 3, 6, layer_norm=True)
    assert [n for n, _ in normed.named_parameters()] == [
        "weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "norm_ih_l0",
    ]  # fmt: skip
    assert normed(torch.randn(2, 1, 3))[0].any()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: gw.Recurrent(block_of_1997, 3, 6, block_size=4), "hidden_size=6 must be a multiple "
            "of block_size=4 times recurrent_blocks=1, which is 4"),
        (lambda: gw.Recurrent(block_of_1997, 3, 6, block_size=3, recurrent_blocks=4), "which is 12"),
        (lambda: gw.LSTM(3, 6, block_size=2), "block_size=2 needs a cell with shared gates, and lstm "
            "has none"),
        (lambda: gw.LSTM(3, 6, block_size=0), "block_size must be a positive integer, not 0"),
        (lambda: gw.LSTM(3, 6, recurrent_blocks=2.0), "recurrent_blocks must be a positive integer"),
        (lambda: gw.GRU(3, 6, recurrent_blocks=4), "hidden_size=6 must be a multiple of block_size=1 "
            "times recurrent_blocks=4, which is 4"),
        (lambda: gw.LSTM(3, 6, proj_size=3, recurrent_blocks=2), "proj_size=3 must be a multiple of "
            "recurrent_blocks=2"),
        (lambda: gw.Recurrent("mingru", 3, 6, recurrent_blocks=2), "recurrent_blocks=2 divides "
            "recurrent weights, and mingru has none"),
        (lambda: gw.Recurrent("gru_2014", 3, 6, proj_size=2), "gru_2014 cannot be projected: the "
            "recurrent input of its gates n is a value of the same step with hidden_size=6 numbers, "
            "and the recurrent weights would need proj_size=2"),
    ],
)  # fmt: skip
def test_what_is_refused(make, message):
    with pytest.raises(OptionError, match=re.escape(message)):
        make()
