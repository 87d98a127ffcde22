"""gw.trace: every gate of any model, with the model's output unchanged."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import gatewise as gw
from gatewise.backends.native import calls
from gatewise.errors import BackendError, OptionError, ShapeError, TooLargeError


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(5)


def by_hand(layer, x, lengths=None):
    """The gates of torch.nn.LSTM, step by step: by layer and direction, a dict of B×T×H."""
    found, names = [], ("i", "f", "g", "o", "c", "h")
    lengths = [x.shape[1]] * len(x) if lengths is None else lengths
    for k in range(layer.num_layers):
        outputs = []
        found.append([])
        for suffix in ("", "_reverse")[: 1 + layer.bidirectional]:
            w, u, b, v = (
                getattr(layer, f"{n}_l{k}{suffix}")
                for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            )
            project = getattr(layer, f"weight_hr_l{k}{suffix}", None)
            size = layer.proj_size or layer.hidden_size
            of = {n: torch.zeros(*x.shape[:2], layer.hidden_size) for n in names[:5]}
            of["h"] = torch.zeros(*x.shape[:2], size)
            for row, length in enumerate(lengths):
                h, c = torch.zeros(size), torch.zeros(layer.hidden_size)
                for t in range(length)[:: -1 if suffix else 1]:
                    i, f, g, o = (w @ x[row, t] + b + u @ h + v).chunk(4)
                    i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
                    c = f * c + i * g
                    h = o * c.tanh()
                    h = h if project is None else project @ h
                    for n, value in zip(names, (i, f, g, o, c, h), strict=True):
                        of[n][row, t] = value
            found[k].append(of)
            outputs.append(of["h"])
        x = torch.cat(outputs, -1)
    return found


def agree(trace, expected):
    for name in trace.names:
        for k, directions in enumerate(expected):
            for d, of in enumerate(directions):
                torch.testing.assert_close(trace[name][k][d], of[name], rtol=0, atol=1e-6)


class Tagger(nn.Module):
    """An embedding, a recurrent layer and a head; lengths are packed if there are any."""

    def __init__(self, rnn):
        super().__init__()
        self.embedding, self.rnn, self.head = nn.Embedding(7, 3), rnn, nn.LazyLinear(2)

    def forward(self, words, lengths=None):
        x = self.embedding(words)
        if lengths is not None:
            x = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        y = self.rnn(x)[0]
        y = y if lengths is None else pad_packed_sequence(y, batch_first=True, total_length=6)[0]
        return self.head(y)


LSTMS = {
    "one layer": {},
    "stacked, both ways": dict(num_layers=2, bidirectional=True),
    "projected": dict(num_layers=2, proj_size=2, bidirectional=True),
    "no bias": dict(bias=False),
}


@pytest.mark.filterwarnings("ignore:LSTM with projections")  # torch's
@pytest.mark.parametrize("lengths", [None, [3, 6, 1]], ids=["whole", "packed"])
@pytest.mark.parametrize("options", LSTMS.values(), ids=LSTMS)
@torch.no_grad()
def test_a_torch_lstm_inside_a_model(options, lengths):
    model = Tagger(nn.LSTM(3, 5, batch_first=True, **options)).eval()
    words = torch.randint(7, (3, 6))
    plain = model(words, lengths)
    if options.get("bias") is False:
        model.rnn.bias_ih_l0 = model.rnn.bias_hh_l0 = torch.zeros(20)
        model.rnn._flat_weights_names = list(model.rnn._flat_weights_names)
    traces = gw.trace(model, words, lengths=lengths)
    assert list(traces) == ["rnn"]
    assert torch.equal(traces.output, plain)
    assert traces["rnn"].cell == gw.CELLS["lstm"]
    agree(traces["rnn"], by_hand(model.rnn, model.embedding(words), lengths))
    assert not any(module._forward_hooks for module in model.modules())
    assert torch.equal(model(words, lengths), plain)


KNOWN = {
    "LSTM": lambda: nn.LSTM(3, 19),
    "batch first": lambda: nn.LSTM(3, 5, num_layers=2, batch_first=True),
    "projected": lambda: nn.LSTM(3, 5, bidirectional=True, proj_size=2),
    "GRU": lambda: nn.GRU(3, 5, num_layers=2, bidirectional=True),
    "RNN": lambda: nn.RNN(3, 5, nonlinearity="relu", bias=False),
    "double": lambda: nn.GRU(3, 5).double(),
}


@pytest.mark.filterwarnings("ignore:LSTM with projections")  # torch's
@pytest.mark.parametrize("given", ["whole", "packed", "one sequence", "long"])
@pytest.mark.parametrize("name", KNOWN)
def test_a_layer_of_torch_is_traced_from_its_output(name, given, monkeypatch):
    """The last layer reads each step's recurrent input from the output; the trace is that of a run of its own."""
    model, inputs = KNOWN[name](), []
    steps = 120 if given == "long" else 7
    x = torch.randn(steps, 3, dtype=next(model.parameters()).dtype)
    if given != "one sequence":
        x = torch.randn(3, steps, 3).to(x) if model.batch_first else torch.randn(steps, 3, 3).to(x)
    if given == "packed":
        x = pack_padded_sequence(x, [2, 7, 3], model.batch_first, enforce_sorted=False)
    own = gw.convert(model).forward(x, trace=True)[2]
    run = calls.traced
    monkeypatch.setattr(calls, "traced", lambda *of: inputs.append(of[1:]) or run(*of))
    found = gw.trace(model, x)["model"]
    whole = [bool(of and of[0] is not None) for of in inputs]
    directions = 1 + model.bidirectional
    assert whole == [False] * directions * (model.num_layers - 1) + [True] * directions
    for value in own.names:
        for k, of_layer in enumerate(own[value]):
            for one, other in zip(found[value][k], of_layer, strict=True):
                torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_steps_that_torch_computed_in_the_padding_are_not_read(monkeypatch):
    model, x = nn.LSTM(3, 5, bidirectional=True), torch.randn(6, 2, 3)
    own = gw.convert(model).forward(x, lengths=[2, 6], trace=True)[2]
    found = gw.trace(model, x, lengths=[2, 6])["model"]
    for name in own.names:
        for d in (0, 1):
            torch.testing.assert_close(found[name][0][d], own[name][0][d], rtol=1e-5, atol=1e-6)


class Late(nn.LSTM):
    """Other numbers from step 3 on."""

    def forward(self, input, hx=None):
        y, state = super().forward(input, hx)
        return torch.cat([y[:3], -y[3:]]), state


def test_an_output_that_is_another_from_some_step_on_is_refused():
    with pytest.raises(BackendError, match="differs by"):
        gw.trace(Late(3, 5), torch.randn(6, 2, 3))


MODELS = {
    "LSTM": lambda: gw.LSTM(3, 5, num_layers=2, bidirectional=True),
    "highway": lambda: gw.Recurrent("gru", 3, 4, num_layers=2, connect="highway", zoneout=0.1),
    "blocks": lambda: gw.Recurrent("slstm", 3, 6, recurrent_blocks=2, learn_initial=True),
    "MLSTM": lambda: gw.MLSTM(3, 4, heads=2),
    "a backend without gates": lambda: gw.LSTM(3, 4, num_layers=2, dropout=0.5, backend="aten"),
    "Stack": lambda: gw.Stack(gw.MLSTM(3, 4), gw.LSTM(4, 5)),
    "Bidirectional": lambda: gw.Bidirectional(gw.LSTM(3, 4)),
    "both ways a stack": lambda: gw.Bidirectional(
        gw.Stack(gw.LSTM(3, 4)), gw.Stack(gw.Recurrent("gru", 3, 4))
    ),
    "Reversed": lambda: gw.Reversed(gw.Recurrent("mingru", 3, 4)),
    "hybrid": lambda: gw.HybridBlock(4, 2, gw.LSTM(4, 4)),
    "torch.GRU": lambda: nn.GRU(3, 4, num_layers=2, bidirectional=True),
    "torch.RNN": lambda: nn.RNN(3, 4, nonlinearity="relu"),
    "dropout": lambda: nn.LSTM(3, 4, num_layers=3, dropout=0.5),
    "our dropout": lambda: gw.LSTM(3, 4, num_layers=3, dropout=0.5, recurrent_dropout=0.3),
}
NAMES = {
    "Stack": ["layers.0", "layers.1"],
    "both ways a stack": ["model.0"],
    "hybrid": ["recurrent"],
}


@pytest.mark.parametrize("cell", gw.CELLS)
def test_the_output_of_a_layer_of_every_cell_is_unchanged_to_the_bit(cell):
    layer = gw.Recurrent(cell, 3, 19, num_layers=2, bidirectional=True)
    for x in (torch.randn(7, 1, 3), torch.randn(5, 9, 3), torch.randn(0, 2, 3)):
        with torch.no_grad():
            plain = layer(x)[0]
        for differentiable in (False, True):
            assert torch.equal(gw.trace(layer, x, differentiable=differentiable).output[0], plain)


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("name", MODELS)
def test_the_output_of_a_model_is_unchanged_to_the_bit(name, training):
    model, wide = MODELS[name]().train(training), 4 if name == "hybrid" else 3
    x = torch.randn(6, 3, wide)
    with torch.no_grad():
        state = torch.get_rng_state()
        plain = model(x)
        after = torch.get_rng_state()
        torch.set_rng_state(state)
        traces = gw.trace(model, x)
    assert torch.equal(torch.get_rng_state(), after)
    for one, other in zip(flat(traces.output), flat(plain), strict=True):
        assert torch.equal(one, other)
    assert list(traces) == NAMES.get(name, ["model"])
    if name not in ("Stack", "hybrid", "both ways a stack", "highway"):
        last = [traces["model"].h[-1][d] for d in range(len(traces["model"].h[-1]))]
        torch.testing.assert_close(torch.cat(last, -1).transpose(0, 1), plain[0])


def flat(result):
    if isinstance(result, torch.Tensor):
        return [result]
    return [tensor for each in result for tensor in flat(each)]


def test_a_video_is_traced_too():
    model, x = gw.ConvLSTM(2, 3, 3, batch_first=True), torch.randn(2, 4, 2, 5, 5)
    with torch.no_grad():
        plain = model(x)[0]
    traces = gw.trace(model, x, lengths=[4, 2])
    assert traces["model"].f[0][0].shape == (2, 4, 3, 5, 5)
    assert torch.equal(traces.output[0][:1], plain[:1])


class Decoder(nn.Module):
    """A step cell in a loop that changes its state between the steps."""

    def __init__(self, cell):
        super().__init__()
        self.cell = cell

    def forward(self, x):
        state, outputs = None, []
        for step in x:
            state = self.cell(step, state)
            first = state[0] if isinstance(state, tuple) else state
            outputs.append(first)
            state = (first * 0.9, *state[1:]) if isinstance(state, tuple) else first * 0.9
        return torch.stack(outputs)


CELLS = {
    "torch.LSTMCell": lambda: nn.LSTMCell(3, 4),
    "torch.GRUCell": lambda: nn.GRUCell(3, 4, bias=False),
    "torch.RNNCell": lambda: nn.RNNCell(3, 4, nonlinearity="relu"),
    "RecurrentCell": lambda: gw.RecurrentCell("peephole", 3, 4, layer_norm=False),
}


@pytest.mark.parametrize("name", CELLS)
@torch.no_grad()
def test_a_step_cell_in_a_loop(name):
    model, x = Decoder(CELLS[name]()), torch.randn(5, 2, 3)
    plain = model(x)
    traces = gw.trace(model, x)
    found = traces["cell"]
    assert found.calls == (1,) * 5
    assert torch.equal(traces.output, plain)
    torch.testing.assert_close(found.h[0][0].transpose(0, 1), plain, rtol=0, atol=1e-6)
    if name == "torch.LSTMCell":
        cell, (h, c) = model.cell, (torch.zeros(2, 4), torch.zeros(2, 4))
        for t, step in enumerate(x):
            pre = step @ cell.weight_ih.T + cell.bias_ih + h @ cell.weight_hh.T + cell.bias_hh
            i, f, g, o = pre.chunk(4, -1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            torch.testing.assert_close(found.f[0][0][:, t], f.sigmoid(), rtol=0, atol=1e-6)
            torch.testing.assert_close(found.c[0][0][:, t], c, rtol=0, atol=1e-6)
            h = o.sigmoid() * c.tanh() * 0.9


def test_several_calls_are_joined_along_time():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = gw.LSTM(3, 4, batch_first=True)

        def forward(self, x):
            first, state = self.rnn(x[:, :2], lengths=[2, 1])
            return self.rnn(x[:, 2:], state, lengths=[1, 3])[0], first

    model, x = Twice(), torch.randn(2, 5, 3)
    found = gw.trace(model, x)["rnn"]
    assert found.calls == (2, 3)
    assert found.lengths.tolist() == [3, 4]
    compact = torch.stack([x[0], x[1][[0, 2, 3, 4, 4]]])
    with torch.no_grad():
        whole = model.rnn(compact, lengths=[3, 4], trace=True)[2]
    for name in whole:
        torch.testing.assert_close(found[name][0][0], whole[name][0][0])


def test_lengths_of_a_model_that_takes_none():
    model = nn.Sequential(nn.LSTM(3, 4, batch_first=True, bidirectional=True))
    x = torch.randn(2, 5, 3)
    with torch.no_grad():
        plain = model(x)[0]
    traces = gw.trace(model, x, lengths=[2, 5])
    assert torch.equal(traces.output[0], plain)
    agree(traces["0"], by_hand(model[0], x, [2, 5]))
    again = gw.trace(gw.convert(model), x, lengths=[2, 5])
    torch.testing.assert_close(again["0"].h[0][1], traces["0"].h[0][1])
    with pytest.raises(ShapeError, match=r"length 9 of sequence 1 is not in 0…5"):
        gw.trace(model, x, lengths=[2, 9])


def test_a_weight_that_a_hook_makes():
    model = nn.Sequential(nn.LSTM(3, 4), nn.Identity())
    nn.utils.parametrizations.weight_norm(model[0], "weight_hh_l0")
    x = torch.randn(5, 2, 3)
    with torch.no_grad():
        plain = model(x)[0]
        agree(gw.trace(model, x)["0"], by_hand(model[0], x.transpose(0, 1)))
    assert torch.equal(gw.trace(model, x).output[0], plain)


@pytest.mark.parametrize("make", [nn.LSTM, nn.GRU, gw.LSTM, gw.GRU])
@torch.no_grad()
def test_under_autocast(make):
    """torch's GRU stays in float32 there, and so does its trace."""
    model, x = make(3, 4), torch.randn(6, 2, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        plain = model(x)[0]
        traces = gw.trace(model, x)
    assert torch.equal(traces.output[0], plain)
    assert traces["model"].h[0][0].dtype == plain.dtype
    torch.testing.assert_close(traces["model"].h[0][0].transpose(0, 1), plain, rtol=0, atol=0.02)


@pytest.mark.slow
def test_a_compiled_model():
    model, x = nn.Sequential(gw.LSTM(3, 4)), torch.randn(6, 2, 3)
    compiled = torch.compile(model, backend="eager")
    assert torch.equal(gw.trace(compiled, x)["0"].f[0][0], gw.trace(model, x)["0"].f[0][0])


@pytest.mark.parametrize("make", [nn.GRU, gw.GRU])
def test_a_frozen_model_has_gradients_of_its_gates(make):
    model, x = make(3, 4).requires_grad_(False).eval(), torch.randn(6, 2, 3)
    traces = gw.trace(model, x, differentiable=True)
    found = traces.gradients(traces.output[0][-1].sum())["model"]
    assert found.z[0][0].abs().max() > 0
    torch.testing.assert_close(found.h[0][0][:, -1], torch.ones(2, 4))
    assert not x.requires_grad


class Doubled(nn.LSTM):
    def forward(self, input, hx=None):
        output, state = super().forward(2 * input, hx)
        return output, state


def test_what_computes_something_else_is_refused():
    model = nn.Sequential(Doubled(3, 4))
    with pytest.raises(BackendError, match=r"'0' is a Doubled whose output differs by 0\.\d+"):
        gw.trace(model, torch.randn(5, 2, 3))


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.decoder, self.head = nn.GRU(3, 4), gw.LSTM(4, 4), nn.Linear(4, 1)

    def forward(self, x):
        return self.head(self.decoder(self.encoder(x)[0])[0])


def test_some_modules_of_several():
    model, x = Two(), torch.randn(5, 2, 3)
    assert list(gw.trace(model, x)) == ["encoder", "decoder"]
    assert list(gw.trace(model, x, modules="decoder")) == ["decoder"]
    with pytest.raises(OptionError, match=r"no recurrent module 'decodr'.*did you mean 'decoder'"):
        gw.trace(model, x, modules=["decodr"])
    traces = gw.trace(model, x, modules=["encoder"])
    with pytest.raises(OptionError, match=r"no module 'encodr' in these traces.*'encoder'"):
        traces["encodr"]
    assert "decoder" not in traces
    assert traces.get("decoder") is None


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        (nn.Linear(3, 4), OptionError, "this Linear has no recurrent module"),
        ("a path", OptionError, "takes a torch.nn.Module, a Keras model .* not str"),
        (nn.LSTM(8, 4), RuntimeError, "must be equal to input_size"),
        (gw.LSTM(8, 4), ShapeError, "its last dimension must be input_size=8"),
    ],
)
def test_what_cannot_be_traced(model, error, message):
    with pytest.raises(error, match=message):
        gw.trace(model, torch.randn(5, 2, 3))


def test_what_is_no_input():
    with pytest.raises(ShapeError, match="input is a list, expected a tensor"):
        gw.trace(gw.LSTM(3, 4), [1.0, 2.0])
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        gw.trace(gw.LSTM(3, 4))
    with pytest.raises(OptionError, match="modules is empty"):
        gw.trace(gw.LSTM(3, 4), torch.randn(5, 2, 3), modules=[])
    with pytest.raises(OptionError, match="'rnn' is called several times, with 1 and 2 sequences"):
        gw.trace(Ragged(), torch.randn(5, 2, 3))


class Ragged(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(3, 4)

    def forward(self, x):
        return self.rnn(x)[0], self.rnn(x[:, :1])[0]


def test_a_module_that_is_never_called():
    class Direct(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.LSTM(3, 4)

        def forward(self, x):
            return self.rnn.forward(x)[0]

    with pytest.raises(OptionError, match=r"did not call its recurrent modules \(rnn\)"):
        gw.trace(Direct(), torch.randn(5, 2, 3))


def test_a_trace_larger_than_the_memory_says_how_large():
    x = torch.randn(64, 8, 3)
    size = 64 * 8 * 6 * 32 * 4 / 2**10
    with pytest.raises(
        TooLargeError, match=rf"take {size:.1f} KiB up to this call of 'model'.*store="
    ):
        gw.trace(gw.LSTM(3, 32), x, memory=2**18)
    with pytest.raises(TooLargeError, match="memory= allows 60 bytes: give"):
        gw.trace(gw.LSTM(3, 32), x, memory=60)
    assert gw.trace(gw.LSTM(3, 32), x, memory=2**19)["model"].f[0][0].shape == (8, 64, 32)


def loss_of_gates(traces):
    return sum((trace.f[0][0] ** 2).mean() for trace in traces.values()) + traces.output[0].sum()


@pytest.mark.parametrize("make", [lambda: nn.LSTM(3, 5), lambda: gw.LSTM(3, 5)])
def test_a_loss_on_gates(make):
    """Beside the same through autograd, by a loop over the equations."""
    model, x = make(), torch.randn(5, 2, 3)
    loss_of_gates(gw.trace(model, x, differentiable=True)).backward()
    by_kernels = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    expected = by_hand_differentiable(model, x)
    expected.backward()
    for name, p in model.named_parameters():
        torch.testing.assert_close(by_kernels[name], p.grad, rtol=1e-4, atol=1e-6)
    assert not gw.trace(model, x)["model"].f[0][0].requires_grad


def by_hand_differentiable(model, x):
    h, c, total, gates = x.new_zeros(2, 5), x.new_zeros(2, 5), 0.0, []
    for step in x:
        pre = step @ model.weight_ih_l0.T + model.bias_ih_l0 + h @ model.weight_hh_l0.T
        i, f, g, o = (pre + model.bias_hh_l0).chunk(4, -1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        gates.append(f.sigmoid())
        total = total + h.sum()
    return (torch.stack(gates) ** 2).mean() + total


@pytest.mark.parametrize("make", [nn.LSTM, gw.LSTM])
def test_the_gradient_of_a_number_with_respect_to_the_cell_state(make):
    """A small change of c at one step moves the output at the last step by the gradient."""
    model, x = make(3, 4).double(), torch.randn(6, 1, 3, dtype=torch.float64)
    traces = gw.trace(model, x, differentiable=True)
    number = traces.output[0][-1, 0, 1]
    found = traces.gradients(number)["model"]
    h, c = (v[0][0][0] for v in (traces["model"].h, traces["model"].c))

    def last(t, by):
        state = h[t].detach(), c[t].detach() + by
        o = traces["model"].o[0][0][0, t].detach()
        state = (o * torch.tanh(state[1]), state[1])  # h of the step follows from c
        with torch.no_grad():
            if t == 5:
                return state[0][1]
            each = tuple(s[None, None] for s in state)
            return model(x[t + 1 :], each)[0][-1, 0, 1]

    for t in (0, 3, 5):
        for unit in range(4):
            by = torch.zeros(4, dtype=torch.float64)
            by[unit] = 1e-6
            slope = (last(t, by) - last(t, -by)) / 2e-6
            torch.testing.assert_close(found.c[0][0][0, t, unit], slope, rtol=1e-5, atol=1e-9)
    with pytest.raises(OptionError, match="takes a tensor with one number"):
        traces.gradients(traces.output[0])


def test_gradients_of_both_directions_and_of_layers():
    model, x = gw.LSTM(3, 4, num_layers=2, bidirectional=True), torch.randn(5, 2, 3)
    number = (traces := gw.trace(model, x, differentiable=True)).output[0].square().sum()
    found = traces.gradients(number)["model"]
    reference = copy.deepcopy(model)
    reference.backend = "reference"
    others = gw.trace(reference, x, differentiable=True)
    expected = others.gradients(others.output[0].square().sum())["model"]
    for name in found:
        for k in range(2):
            for d in range(2):
                torch.testing.assert_close(
                    found[name][k][d], expected[name][k][d], rtol=1e-4, atol=1e-5
                )


def test_no_gradient_without_asking():
    with pytest.raises(OptionError, match="differentiable=True"):
        gw.trace(gw.LSTM(3, 4), torch.randn(5, 2, 3))["model"].gradients(torch.ones(()))


@pytest.mark.parametrize("make", [nn.LSTM, gw.LSTM])
def test_a_trace_within_an_intervention(make):
    model, x = make(3, 4), torch.randn(5, 2, 3)
    with gw.gates.clamp(model, "model", "f", to=0.25), torch.no_grad():
        plain = model(x)[0]
        traces = gw.trace(model, x)
    assert torch.equal(traces.output[0], plain)
    assert (traces["model"].f[0][0] == 0.25).all()
    torch.testing.assert_close(traces["model"].h[0][0].transpose(0, 1), plain)


@pytest.mark.parametrize("lengths", [[3, 6, 2], [6, 6, 6]])
def test_dropout_of_a_packed_sequence(lengths):
    """torch draws masks of the packed values: they are those of the padded ones if no length differs."""
    model = nn.GRU(3, 4, 2, bidirectional=True, batch_first=True, dropout=0.5)
    x = pack_padded_sequence(torch.randn(3, 6, 3), lengths, True, False)
    if lengths[0] == 3:
        with pytest.raises(OptionError, match=r"cannot be drawn again: call model.eval\(\) first"):
            gw.trace(model, x)
        model.eval()
    traces = gw.trace(model, x)
    last = pad_packed_sequence(traces.output[0], batch_first=True)[0]
    h = traces["model"].h[1]
    torch.testing.assert_close(torch.cat([h[0][0], h[1][0]], -1), last[0])
