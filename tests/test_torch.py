"""The layers among torch's own machinery: compile, export, torch.func, autocast, modules, and what is
refused before it can reach a pointer."""

import copy
import io
import itertools
import pickle
import re
import subprocess
import sys
import warnings

import pytest
import torch
from torch import nn
from torch._dynamo.backends.debugging import aot_eager
from torch.export import Dim
from torch.func import functional_call
from torch.nn.utils import parametrizations

import gatewise as gw
from cases import ALL, case
from cells import OWN_CELLS, own_peephole
from gatewise.backends import operators
from gatewise.backends.native import calls
from gatewise.cells.language import from_signature
from gatewise.errors import BackendError, CellError, ShapeError

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    # torch's own use of it, in inductor and for forward-mode derivatives
    pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning"),
]

LAYERS = {
    "lstm": lambda: gw.LSTM(3, 6),
    "projected": lambda: gw.LSTM(3, 6, proj_size=2, batch_first=True),
    "gru, stacked, both ways": lambda: gw.GRU(3, 6, num_layers=2, bidirectional=True),
    "own cell": lambda: gw.Recurrent(own_peephole, 3, 6, bidirectional=True),
    "every option": lambda: gw.LSTM(
        3, 6, num_layers=2, dropout=0.2, layer_norm=True, recurrent_dropout=0.3, zoneout=(0.2, 0.1)
    ),
}
BOTH = ("lengths", "reset")
COMPILED = {
    "lstm": ("lstm", (), False),
    "lstm trained": ("lstm", (), True),
    "projected": ("projected", ("lengths",), True),
    "gru": ("gru, stacked, both ways", BOTH, True),
    "own cell": ("own cell", BOTH, True),
    "every option trained": ("every option", BOTH, True),
}


def arguments(layer, masks, T=10, B=5, seed=0):
    """Input, initial states, and the keywords asked for."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(T, B, 3, generator=generator)
    reset = torch.rand(T, B, generator=generator) < 0.2
    if layer.batch_first:
        x, reset = x.transpose(0, 1).contiguous(), reset.T.contiguous()
    stack = layer.num_layers * (1 + layer.bidirectional)
    hx = tuple(torch.randn(stack, B, s, generator=generator) for s in layer.config.state_sizes)
    given = dict(lengths=torch.randint(0, T + 1, (B,), generator=generator), reset=reset)
    return x, hx if len(hx) > 1 else hx[0], {name: given[name] for name in masks}


def listed(hx):
    return [hx] if isinstance(hx, torch.Tensor) else list(hx)


def results(run, layer, x, hx, given, training):
    """What comes out, and in training the gradients of everything."""
    torch.manual_seed(0)
    if not training:
        with torch.no_grad():
            output, final = run(x, hx, **given)
        return [output, *listed(final)]
    x = x.clone().requires_grad_()
    states = [s.clone().requires_grad_() for s in listed(hx)]
    output, final = run(x, tuple(states) if len(states) > 1 else states[0], **given)
    loss = output.square().sum() + sum(f.sum() for f in listed(final))
    leaves = [x, *states, *layer.parameters()]
    return [output.detach(), *torch.autograd.grad(loss, leaves)]


class Counting:
    """aot_eager, which keeps the number of nodes of every graph it is given."""

    def __init__(self):
        self.nodes = []

    def __call__(self, graph, inputs):
        self.nodes.append(len(graph.graph.nodes))
        return aot_eager(graph, inputs)


@pytest.fixture(autouse=True)
def fresh_dynamo():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


# torch.compile -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("layer", "masks", "training"), COMPILED.values(), ids=COMPILED)
def test_compiled_whole_and_for_every_length(layer, masks, training):
    """No break, no second graph for other T and B, and eager's results and gradients."""
    layer, counting = LAYERS[layer]().train(training), Counting()
    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend=counting)
    compiles = []
    for T, B in ((10, 5), (200, 2), (7, 3)):
        x, hx, given = arguments(layer, masks, T, B, seed=T)
        expected = results(layer, layer, x, hx, given, training)
        found = results(compiled, layer, x, hx, given, training)
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
        compiles.append(len(counting.nodes))
    assert compiles == compiles[:1] * 3


def test_the_graph_is_as_large_for_any_length():
    counting, sizes = Counting(), []
    for T in (10, 1000):
        torch._dynamo.reset()
        layer = gw.LSTM(3, 6, num_layers=2, bidirectional=True)
        compiled = torch.compile(layer, fullgraph=True, dynamic=False, backend=counting)
        results(compiled, layer, *arguments(layer, BOTH, T), True)
        sizes.append(counting.nodes[-1])
    assert sizes[0] == sizes[1] < 200


def test_marked_dynamic():
    layer, counting = gw.GRU(3, 6), Counting()
    compiled = torch.compile(layer, fullgraph=True, backend=counting)
    for T, B in ((10, 5), (200, 2), (7, 3)):
        x = torch.randn(T, B, 3)
        torch._dynamo.mark_dynamic(x, 0)
        torch._dynamo.mark_dynamic(x, 1)
        torch.testing.assert_close(compiled(x), layer(x), rtol=0, atol=0)
    assert len(counting.nodes) == 1


@pytest.mark.parametrize(
    "cell", ["lstm", pytest.param(own_peephole, marks=pytest.mark.slow)], ids=str
)
def test_a_trace_from_a_compiled_layer(cell):
    layer, counting = gw.Recurrent(cell, 3, 6, num_layers=2, bidirectional=True), Counting()
    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend=counting)
    compiles = []
    for T, B in ((10, 5), (100, 2)):
        x, hx, given = arguments(layer, BOTH, T, B)
        with torch.no_grad():
            *found, trace = compiled(x, hx, trace=True, **given)
            *expected, true_trace = layer(x, hx, trace=True, **given)
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
        assert trace.names == true_trace.names
        for name in trace:
            torch.testing.assert_close(trace[name], true_trace[name], rtol=0, atol=0)
        compiles.append(len(counting.nodes))
    assert compiles == compiles[:1] * 2


@pytest.mark.parametrize("cell", ["lstm", "gru", "gru_2014"])
def test_a_differentiable_trace_from_a_compiled_layer(cell, monkeypatch):
    """The kernels' gradient, in one graph for any number of steps."""
    ran, forward = [], calls.forward_saving_history
    monkeypatch.setattr(
        calls, "forward_saving_history", lambda given: ran.append(len(given.x)) or forward(given)
    )
    layer, counting = gw.Recurrent(cell, 3, 6, num_layers=2, bidirectional=True), Counting()
    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend=counting)
    compiles = []
    for T, B in ((10, 5), (100, 2)):
        x, hx, given = arguments(layer, BOTH, T, B)
        x.requires_grad_()
        found = []
        for run in (layer, compiled):
            output, _, trace = run(x, hx, trace=True, **given)
            values = [trace[name][k][d] for name in trace for k in (0, 1) for d in (0, 1)]
            loss = output.square().sum() + sum(v.square().sum() for v in values)
            found.append([*values, *torch.autograd.grad(loss, [x, *layer.parameters()])])
        for one, other in zip(*found, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
        compiles.append(len(counting.nodes))
    assert compiles == compiles[:1] * 2
    assert ran == [10] * 8 + [100] * 8  # four layers and directions, in eager mode and compiled


@pytest.mark.parametrize("backend", ["cpu", "reference", "aten"])
def test_lengths_are_checked_in_a_compiled_layer(backend):
    layer = gw.GRU(3, 6, backend=backend)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    x = torch.randn(5, 2, 3)
    good = torch.tensor([2, 5])
    torch.testing.assert_close(compiled(x, lengths=good), layer(x, lengths=good))
    for wrong, run in itertools.product((6, -1), (layer, compiled)):
        with pytest.raises(ShapeError, match=f"length {wrong} of sequence 1 is not in 0…5"):
            run(x, lengths=torch.tensor([2, wrong]))


def test_compiled_with_inductor():
    """Once for both sizes. The first has no T or B that is also another size: torch takes equal sizes for one."""

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = gw.LSTM(3, 6, bidirectional=True)
            self.head = nn.Linear(12, 2)

        def forward(self, x, lengths):
            return self.head(self.layer(x * 2, lengths=lengths)[0]).tanh()

    model = Model()
    compiled = torch.compile(model, fullgraph=True, dynamic=True)
    for T, B in ((7, 4), (9, 2)):
        x, lengths = torch.randn(T, B, 3), torch.tensor([T, 0, 2, 5][:B])
        grads = []
        for run in (model, compiled):
            with torch.compiler.set_stance("default" if T == 7 else "fail_on_recompile"):
                output = run(x, lengths)
            loss = output.square().sum()
            grads.append([output.detach(), *torch.autograd.grad(loss, model.parameters())])
        torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-5)


def test_a_compiled_layer_follows_what_is_changed():
    layer = gw.LSTM(3, 6, zoneout=0.3)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    x = torch.randn(5, 2, 3)
    for change in (
        dict(training=False), dict(backend="reference"), dict(backend="auto"),
        dict(zoneout=(0.0, 0.0)), dict(training=True, recurrent_dropout=1.0),
    ):  # fmt: skip
        for name, value in change.items():
            setattr(layer, name, value)
        torch.manual_seed(0)
        expected = layer(x)
        torch.manual_seed(0)
        torch.testing.assert_close(compiled(x), expected)


def test_compiled_under_autocast():
    layer = gw.LSTM(3, 6)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    x = torch.randn(5, 2, 3)
    with torch.autocast("cpu", torch.bfloat16):
        found, expected = compiled(x)[0], layer(x)[0]
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


# torch.export --------------------------------------------------------------------------------------


class Model(nn.Module):
    def __init__(self, layer, masks=()):
        super().__init__()
        self.layer, self.masks = layer, masks

    def forward(self, x, lengths, reset):
        given = dict(lengths=lengths, reset=reset)
        output, final = self.layer(x, **{name: given[name] for name in self.masks})
        return output, *listed(final)


def exported(model, strict=False, **options):
    T, B = Dim("T", min=2), Dim("B", min=2)
    shapes = dict(x={0: T, 1: B}, lengths={0: B}, reset={0: T, 1: B})
    given = torch.randn(5, 3, 3), torch.tensor([5, 0, 2]), torch.rand(5, 3) < 0.3
    return torch.export.export(model, given, dynamic_shapes=shapes, strict=strict, **options)


def example(T, B):
    return torch.randn(T, B, 3), torch.randint(0, T + 1, (B,)), torch.rand(T, B) < 0.2


EXPORTED = [name for name in LAYERS if name != "projected"]


@pytest.mark.parametrize(
    ("name", "strict"),
    [*((name, False) for name in EXPORTED), ("every option", True)],
)
def test_exported_for_every_length(name, strict):
    model = Model(LAYERS[name]().eval(), BOTH)
    program = exported(model, strict)
    targets = [str(node.target) for node in program.graph.nodes]
    assert sum(t.startswith("gatewise.run.") for t in targets) == len(
        model.layer.config.step_shapes
    )
    assert len(targets) < 120
    whole = program.run_decompositions()
    for T, B in ((5, 3), (50, 2), (3, 7)):
        given = example(T, B)
        for run in (program.module(), whole.module()):
            torch.testing.assert_close(run(*given), model(*given), rtol=0, atol=0)
    x, _, reset = given
    with pytest.raises(ShapeError, match="length 4 of sequence 0 is not in 0…3"):
        program.module()(x, torch.tensor([4] * 7), reset)


def test_an_exported_program_can_be_trained():
    model = Model(gw.LSTM(3, 6), ("lengths",))
    trained, given = exported(model).module(), example(7, 3)
    for each in (model, trained):
        sum(out.square().sum() for out in each(*given)).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(trained.get_parameter(name).grad, parameter.grad)


def test_no_activations_are_saved_where_none_are_needed(monkeypatch):
    model = exported(Model(gw.LSTM(3, 6), ("lengths",))).module()
    monkeypatch.setattr(calls, "activations_like", lambda *_: pytest.fail("saved"))
    with torch.no_grad():
        model(*example(7, 3))


@pytest.mark.parametrize(
    "cell", [pytest.param("lstm", marks=pytest.mark.slow), own_peephole], ids=str
)
def test_an_exported_program_runs_in_another_process(cell, tmp_path):
    """It needs ``import gatewise``, and for a user's cell nothing else: the graph holds its equations."""
    model = Model(gw.Recurrent(cell, 3, 6, bidirectional=True), BOTH)
    given = example(9, 4)
    torch.export.save(exported(model), tmp_path / "model.pt2")
    torch.save((given, model(*given)), tmp_path / "values.pt")
    code = f"""
import torch, gatewise
program = torch.export.load(r"{tmp_path}/model.pt2")
given, expected = torch.load(r"{tmp_path}/values.pt")
torch.testing.assert_close(program.module()(*given), expected, rtol=0, atol=0)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("cell", [*gw.CELLS.values(), *OWN_CELLS.values()], ids=lambda c: c.name)
def test_a_cell_from_its_signature(cell):
    again = from_signature(cell.name, cell.signature)
    assert again is not cell
    assert again == cell
    assert list(again.values) == list(cell.values)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("tanh(", "tan("),
        lambda text: text.replace("gates=i f", "gates=i"),
        lambda text: text.replace("state()c", "state()d"),
        lambda text: text.replace("state()c", "gradient()c"),
        lambda text: text + ",more=99",
        lambda text: text + '"); evil(); ("=3',
        lambda text: text.replace("params=", "params=x\x00"),
        lambda text: "",
        lambda text: text[: len(text) // 2],
    ],
)
def test_text_that_is_no_cells_signature(change):
    text = own_peephole.signature
    assert change(text) != text
    with pytest.raises(CellError, match="no cell has the name"):
        from_signature("own_peephole", change(text))
    with pytest.raises(CellError, match="no cell has the name"):
        from_signature('x"); evil("', text)


def test_a_cell_that_this_gatewise_lacks():
    given = operators_arguments(case(gw.CELLS["lstm"]))
    given[7] = "lstm_of_2031"
    with pytest.raises(
        CellError, match="the cell 'lstm_of_2031', which this version of gatewise does not have"
    ):
        torch.ops.gatewise.run(*given)


# The operators -------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", [gw.CELLS["lstm"], own_peephole], ids=["built in", "own"])
def test_a_graph_that_another_version_left_in_torchs_cache_is_not_found(cell, monkeypatch):
    """torch.compile's key of a graph on disk has the operators' arguments, and not the sizes of their results."""
    now = operators._key(cell)
    monkeypatch.setattr(operators, "_version", lambda: "0.0.7")
    before = operators._key(cell)
    assert "@0.0.7" in before
    assert before != now
    assert operators._cell(before) == operators._cell(now) == cell  # but one in a file runs


def operators_arguments(given, differentiable=False):
    return list(operators.operands(given.asked(*(given.leaves() if differentiable else ()))))


OPTION_SETS = {
    "lstm": (gw.CELLS["lstm"], {}),
    "gru, no bias, reverse": (gw.CELLS["gru"], dict(bias=False, reverse=True, lengths=(4, 0, 2))),
    "own cell, all": (own_peephole, dict(P=2, lengths=(4, 0, 2), **ALL)),
    "float32": (gw.CELLS["lstm"], dict(dtype=torch.float32, reset=True)),
    "no steps": (gw.CELLS["lstm"], dict(T=0)),
}


@pytest.mark.parametrize(
    ("cell", "options", "differentiable"),
    [
        pytest.param(
            *OPTION_SETS[name],
            differentiable,
            # an LSTM like the first, of another type
            marks=pytest.mark.slow if name == "float32" and differentiable else (),
            id=f"{name}-{differentiable}",
        )
        for name in OPTION_SETS
        for differentiable in (False, True)
    ],
)
def test_opcheck(cell, options, differentiable):
    given = operators_arguments(case(cell, **options), differentiable)
    torch.library.opcheck(torch.ops.gatewise.run.default, given)
    with torch.no_grad():
        *outcome, tape = torch.ops.gatewise.run_saving(*given)
    for wanted in (True, False):
        tensors = [given[0], *given[1], *given[2]]
        asked = [t is not None and (wanted or k % 2 == 0) for k, t in enumerate(tensors)]
        grads = [torch.randn_like(o) if wanted or k else None for k, o in enumerate(outcome)]
        back = [grads, tape, asked, *given]
        fewer = ("test_schema", "test_faketensor", "test_aot_dispatch_dynamic")
        detached = torch.utils._pytree.tree_map_only(torch.Tensor, torch.Tensor.detach, back)
        torch.library.opcheck(torch.ops.gatewise.run_back.default, detached, test_utils=fewer)
    if not differentiable:
        torch.library.opcheck(torch.ops.gatewise.run_traced.default, given)
    torch.library.opcheck(torch.ops.gatewise.run_history.default, given)


def wrong(place, change):
    def changed(given):
        given[place] = change(given[place])
        return given

    return changed


def at(k, change):
    return lambda tensors: [change(t) if i == k else t for i, t in enumerate(tensors)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (wrong(0, lambda x: x[0]), "takes an input T×B×I"),
        (wrong(0, torch.Tensor.half), "takes an input T×B×I of torch.float32, torch.float64"),
        (wrong(0, torch.Tensor.float), "the initial state h is torch.float64, the input is torch.float32"),
        (wrong(0, lambda x: x[..., :1]), "input has the shape (12, 2), expected (12, 1)"),
        (wrong(1, lambda s: s[:1]), "the call has 1 states"),
        (wrong(1, at(1, lambda s: s[:, :2])), "the initial state c has the shape (3, 2), expected (3, 3)"),
        (wrong(2, at(1, lambda w: w[:3])), "recurrent has the shape (3, 2), expected (12, 2)"),
        (wrong(2, at(0, lambda w: w[:8])), "the initial state c has the shape (3, 3), expected (3, 2)"),
        (wrong(2, at(4, lambda w: None)), "has the states h, c and the weights"),
        (wrong(2, at(6, lambda w: None)), "has the states h, c and the weights"),
        (wrong(2, lambda w: w[:5]), "has the states h, c and the weights"),
        (wrong(2, at(3, torch.Tensor.float)), "recurrent_bias is torch.float32, the input is"),
        (wrong(3, lambda n: n + 3), "length 7 of sequence 0 is not in 0…4"),
        (wrong(3, lambda n: n[:2]), "lengths has the shape (2,), expected (3,)"),
        (wrong(4, lambda r: r[:3]), "reset has the shape (3, 3), expected (4, 3)"),
        (wrong(4, lambda r: r.long()), "reset is torch.int64"),
        (wrong(5, lambda r: r[:, :1]), "the recurrent factors has the shape (3, 1), expected (3, 2)"),
        (wrong(6, lambda z: z[:1]), "zoneout has 1 shares, expected 2"),
        (wrong(6, at(1, lambda z: z[..., :2])), "zoneout's share has the shape (4, 3, 2)"),
        (wrong(8, lambda p: 0), "with proj_size=0 has the states"),
    ],
)  # fmt: skip
def test_an_operator_checks_all_that_it_is_given(change, message):
    """A graph is a file's, and may be given anything."""
    given = operators_arguments(case(gw.CELLS["lstm"], P=2, lengths=(4, 0, 2), **ALL))
    *outcome, tape = torch.ops.gatewise.run_saving(*given)
    wanted = [t is not None for t in (given[0], *given[1], *given[2])]
    given = change(given)
    for op in ("run", "run_saving", "run_traced", "run_history", "run_saving_history"):
        with pytest.raises(ShapeError, match=re.escape(message)):
            getattr(torch.ops.gatewise, op)(*given)
    with pytest.raises(ShapeError, match=re.escape(message)):
        torch.ops.gatewise.run_back(outcome, tape, wanted, *given)


def test_the_gradients_operator_checks_its_own():
    given = operators_arguments(case(gw.CELLS["lstm"]))
    *outcome, tape = torch.ops.gatewise.run_saving(*given)
    wanted = [t is not None for t in (given[0], *given[1], *given[2])]
    back = torch.ops.gatewise.run_back
    with pytest.raises(ShapeError, match="the saved activations has the shape"):
        back(outcome, tape[:-1], wanted, *given)
    with pytest.raises(ShapeError, match="the saved activations is torch"):
        back(outcome, tape.float(), wanted, *given)
    with pytest.raises(ShapeError, match="the gradient of result 1 has the shape"):
        back([outcome[0], outcome[1][:1], None], tape, wanted, *given)
    of_history = [*outcome, None, *[None] * 4]
    back = torch.ops.gatewise.run_history_back
    with pytest.raises(ShapeError, match="the saved activations has the shape"):
        back(of_history, tape[:-1], wanted, *given)
    with pytest.raises(ShapeError, match="the gradient of result 3 has the shape"):
        back([*outcome, outcome[1], *[None] * 4], tape, wanted, *given)


def test_other_tracers():
    """What records operators, or has no numbers, never gets what the core wrote elsewhere."""
    layer, x = gw.LSTM(3, 6).requires_grad_(False), torch.randn(5, 2, 3)
    expected = layer(x)
    graph = torch.fx.experimental.proxy_tensor.make_fx(lambda x: layer(x)[0])(x)
    other = torch.randn(5, 2, 3)
    torch.testing.assert_close(graph(other), layer(other)[0], rtol=0, atol=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        script = torch.jit.trace(lambda x: layer(x)[0], x, check_trace=False)
    torch.testing.assert_close(script(other), layer(other)[0])  # the reference's steps
    with torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True) as mode:
        output, _ = layer(mode.from_tensor(x))
        assert output.shape == expected[0].shape
    with torch.utils.flop_counter.FlopCounterMode(display=False):
        torch.testing.assert_close(layer(x), expected, rtol=0, atol=0)


# torch.func ----------------------------------------------------------------------------------------

CLOSE = dict(rtol=1e-8, atol=1e-10)


@pytest.fixture(params=["lstm", "gru", own_peephole], ids=str)
def model(request):
    """A layer in double precision, and a loss of its parameters and one sequence."""
    torch.manual_seed(3)
    layer = gw.Recurrent(request.param, 2, 3, bidirectional=True, dtype=torch.float64)
    parameters = {name: p.detach() for name, p in layer.named_parameters()}

    def loss(parameters, x, **given):
        output, final = functional_call(layer, parameters, (x,), given)
        return output.square().sum() + sum(f.sin().sum() for f in listed(final))

    return layer, parameters, loss


def sequence(batch=2):
    return torch.randn(4, batch, 2, dtype=torch.float64)


def test_vmap(model):
    layer, _, _ = model
    x = torch.randn(5, 4, 2, 2, dtype=torch.float64)
    found = torch.vmap(lambda x: layer(x)[0])(x)
    torch.testing.assert_close(found, torch.stack([layer(each)[0] for each in x]), **CLOSE)


def test_vmap_over_models(model):
    """An ensemble: one input, many weights."""
    layer, parameters, _ = model
    many = {name: torch.stack([p, 2 * p, -p]) for name, p in parameters.items()}
    x = sequence()
    found = torch.vmap(lambda p: functional_call(layer, p, (x,))[0])(many)
    for k in range(3):
        one = {name: p[k] for name, p in many.items()}
        torch.testing.assert_close(found[k], functional_call(layer, one, (x,))[0], **CLOSE)


@pytest.mark.parametrize("lengths", [False, True])
def test_per_sample_gradients(model, lengths):
    layer, parameters, loss = model
    x, given = sequence(5), torch.tensor([4, 0, 1, 3, 2])

    def one(parameters, x, length):
        return loss(parameters, x[:, None], **(dict(lengths=length[None]) if lengths else {}))

    found = torch.vmap(torch.func.grad(one), in_dims=(None, 1, 0))(parameters, x, given)
    for b in range(5):
        masks = dict(lengths=given[b : b + 1]) if lengths else {}
        value = loss(dict(layer.named_parameters()), x[:, b : b + 1], **masks)
        grads = torch.autograd.grad(value, layer.parameters())
        torch.testing.assert_close([g[b] for g in found.values()], list(grads), **CLOSE)
    if lengths:
        with pytest.raises(ShapeError, match="length 5 of sequence 1 is not in 0…4"):
            torch.vmap(one, in_dims=(None, 1, 0))(parameters, x, torch.tensor([4, 5, 1, 1, 1]))


def test_vjp_jvp_jacobians_and_hessian(model):
    layer, parameters, loss = model
    x, v = sequence(), sequence()

    def run(x):
        return layer(x)[0]

    output, pull = torch.func.vjp(run, x)
    seed = torch.randn_like(output)
    leaf = x.clone().requires_grad_()
    expected = torch.autograd.grad(run(leaf), leaf, seed)
    torch.testing.assert_close(pull(seed), expected, **CLOSE)
    step = 1e-6
    slope = (run(x + step * v) - run(x - step * v)) / (2 * step)
    torch.testing.assert_close(torch.func.jvp(run, (x,), (v,))[1], slope, rtol=1e-6, atol=1e-8)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, v)
        tangent = torch.autograd.forward_ad.unpack_dual(run(dual)).tangent
    torch.testing.assert_close(tangent, slope, rtol=1e-6, atol=1e-8)
    jacobian = torch.func.jacrev(run)(x)
    torch.testing.assert_close(torch.func.jacfwd(run)(x), jacobian, **CLOSE)
    for vectorize in (False, True):
        found = torch.autograd.functional.jacobian(run, x, vectorize=vectorize)
        torch.testing.assert_close(found, jacobian, **CLOSE)
    hessian = torch.func.hessian(lambda x: loss(parameters, x))(x)
    found = torch.autograd.functional.hessian(lambda x: loss(parameters, x), x)
    torch.testing.assert_close(found, hessian, **CLOSE)


def test_many_gradients_at_once(model):
    layer, _, _ = model
    output = layer(sequence())[0]
    seeds = torch.randn(3, *output.shape, dtype=output.dtype)
    weights = list(layer.parameters())
    found = torch.autograd.grad(output, weights, seeds, is_grads_batched=True, retain_graph=True)
    for k in range(3):
        expected = torch.autograd.grad(output, weights, seeds[k], retain_graph=True)
        torch.testing.assert_close([f[k] for f in found], list(expected), **CLOSE)


def test_second_derivatives(model):
    """A gradient penalty, against the reference."""
    layer, _, _ = model
    grads, x = [], sequence()
    for backend in ("cpu", "reference"):
        layer.backend, leaf = backend, x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(layer(leaf)[0].square().sum(), leaf, create_graph=True)
        grads.append(torch.autograd.grad(slope.square().sum(), [leaf, *layer.parameters()]))
    torch.testing.assert_close(*grads, **CLOSE)


TRANSFORMS = {
    "vmap": lambda f, x: torch.vmap(f, in_dims=1)(x[:, :, None]),
    "grad": lambda f, x: torch.func.grad(lambda x: f(x).sum())(x),
    "jvp": lambda f, x: torch.func.jvp(f, (x,), (x,)),
}


@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
def test_the_explanation_under_a_transform(transform):
    layer, said = gw.LSTM(2, 3), []

    def run(x):
        said.append(layer.explain_backend(x))
        return layer(x)[0]

    x = torch.randn(4, 2, 2)
    transform(run, x)
    assert said[0].startswith("reference: ")
    reason = "has no rule for vmap, jvp and other transforms of torch.func"
    assert f"'cpu' {reason}; 'aten' {reason}" in said[0]
    assert layer.explain_backend(x).startswith("cpu: ")
    for backend in ("cpu", "aten"):
        layer.backend = backend
        for use in (lambda x: layer(x)[0], lambda x: layer.explain_backend(x) and x):
            with pytest.raises(BackendError, match=f"'{backend}' was asked for, but it {reason}"):
                transform(use, x)


def test_transforms_in_a_compiled_function():
    layer = gw.LSTM(2, 3)
    parameters = {name: p.detach() for name, p in layer.named_parameters()}

    def loss(parameters, x):
        return functional_call(layer, parameters, (x,))[0].square().sum()

    def gradients(x):
        return torch.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, x)

    x = torch.randn(3, 4, 2, 2)
    compiled = torch.compile(gradients, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), gradients(x))


# Modules -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoint(reentrant):
    layer = gw.LSTM(3, 6, zoneout=0.3, recurrent_dropout=0.2)
    x = torch.randn(5, 2, 3, requires_grad=True)
    grads = []
    for through in (lambda x: layer(x)[0], lambda x: torch.utils.checkpoint.checkpoint(
        lambda x: layer(x)[0], x, use_reentrant=reentrant)):  # fmt: skip
        torch.manual_seed(0)
        loss = through(x).square().sum()
        grads.append(torch.autograd.grad(loss, x) if not reentrant else _grads(loss, layer))
    torch.testing.assert_close(*grads, rtol=0, atol=0)


def _grads(loss, layer):
    layer.zero_grad()
    loss.backward()
    return [p.grad.clone() for p in layer.parameters()]


def test_what_is_kept_for_backward_goes_through_the_hooks():
    """So that checkpointing and save_on_cpu reach the saved activations and the masks."""
    layer, kept = gw.LSTM(3, 60, zoneout=0.3), []
    x = torch.randn(50, 4, 3)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        layer(x)
    assert any(t.dim() == 1 and t.numel() > 50 * 4 * 60 for t in kept)
    assert sum(t.shape == (50, 4, 60) for t in kept) == 2


@pytest.mark.parametrize("norm", [parametrizations.weight_norm, parametrizations.orthogonal])
@pytest.mark.parametrize("trained", ["weights", "nothing else"])
def test_parametrized_weights(norm, trained):
    """Weights that are no parameters of the layer have their gradient, whatever else has one."""
    torch.manual_seed(0)
    layer = gw.LSTM(3, 6, dtype=torch.float64)
    norm(layer, "weight_hh_l0")
    if trained == "nothing else":
        for name, parameter in layer.named_parameters():
            parameter.requires_grad_("parametrizations" in name)
    leaves, grads = [p for p in layer.parameters() if p.requires_grad], []
    for backend in ("auto", "reference"):
        layer.backend = backend
        output, (_, c) = layer(torch.ones(4, 2, 3, dtype=torch.float64))
        grads.append(torch.autograd.grad(output.sum() + c.sum(), leaves))
    torch.testing.assert_close(*grads, **CLOSE)
    assert any(g.any() for g in grads[0])


@pytest.mark.parametrize("where", ["state", "weight"])
def test_a_trace_of_something_else_that_is_differentiated(where):
    """The initial state, or a tensor in a weight's place, may be all that has a gradient."""
    layer = gw.LSTM(3, 6).requires_grad_(False)
    x, hx = torch.randn(4, 2, 3), [torch.zeros(1, 2, 6), torch.zeros(1, 2, 6)]
    if where == "state":
        leaf = hx[1].requires_grad_()
        assert layer.choose_backend(x, tuple(hx), trace=True).spec.differentiated
        trace = layer(x, tuple(hx), trace=True)[2]
    else:
        leaf = layer.weight_hh_l0.detach().clone().requires_grad_()
        trace = functional_call(layer, dict(weight_hh_l0=2 * leaf), (x,), dict(trace=True))[2]
    (grad,) = torch.autograd.grad(trace.f[0][0].sum(), leaf)
    assert grad.any()
    assert not layer.choose_backend(x, trace=True).spec.differentiated


def test_copied_pickled_shared():
    layer = gw.LSTM(3, 6, num_layers=2, bidirectional=True)
    x = torch.randn(5, 2, 3)
    expected = layer(x)
    with torch.no_grad():
        layer(x)  # what it keeps for the next call of this kind is no part of a copy
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    for again in (
        copy.deepcopy(layer),
        pickle.loads(pickle.dumps(layer)),
        torch.load(file, weights_only=False),
        copy.deepcopy(layer).share_memory(),
        pickle.loads(pickle.dumps(gw.Recurrent(own_peephole, 3, 6))),
    ):
        with torch.no_grad():
            found = again(x)
        if again.cell != own_peephole:
            torch.testing.assert_close(found, expected, rtol=0, atol=0)


# Autocast ------------------------------------------------------------------------------------------


@pytest.mark.pairwise
@pytest.mark.parametrize("lengths", [None, (5, 2)])
@pytest.mark.parametrize("backend", ["auto", "cpu", "aten", "reference"])
@pytest.mark.parametrize("make", [gw.LSTM, gw.GRU], ids=["lstm", "gru"])
def test_autocast_casts_everything_once(make, backend, lengths):
    """The result is that of the layer in bfloat16; the gradients reach what was given."""
    layer = make(3, 6, num_layers=2, backend=backend)
    halved = copy.deepcopy(layer).bfloat16()
    x, hx, _ = arguments(layer, (), 5, 2)
    leaves = [x.requires_grad_(), *(s.requires_grad_() for s in listed(hx))]
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(x, hx, lengths=lengths)
        said = layer.explain_backend(x, hx)
    cast = [leaf.detach().bfloat16() for leaf in leaves]
    expected = halved(cast[0], tuple(cast[1:]) if len(cast) > 2 else cast[1], lengths=lengths)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert said == halved.explain_backend(cast[0])
    assert {t.dtype for t in (found[0], *listed(found[1]))} == {torch.bfloat16}
    for leaf in (*leaves, *layer.parameters()):
        assert leaf.dtype == torch.float32
    found[0].float().sum().backward()
    assert all(leaf.grad.dtype == torch.float32 for leaf in (*leaves, *layer.parameters()))


def test_autocast_lets_double_precision_be():
    layer, x = gw.LSTM(3, 6, dtype=torch.float64), torch.randn(5, 2, 3, dtype=torch.float64)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x)[0].dtype == torch.float64
        with pytest.raises(ShapeError, match=r"weights are torch\.bfloat16"):
            gw.LSTM(3, 6)(x)


def test_a_type_that_the_cpu_backend_lacks():
    layer = gw.LSTM(3, 6)
    x = torch.randn(5, 2, 3)
    with torch.autocast("cpu", torch.float16):
        said = layer.explain_backend(x)
        output, _ = layer(x)
    assert "'cpu' computes in float32, float64 and bfloat16, not in torch.float16" in said
    assert output.dtype == torch.float16
    torch.testing.assert_close(output.float(), layer(x)[0], rtol=0.01, atol=0.01)


# What does not fit ---------------------------------------------------------------------------------

X = torch.zeros(5, 2, 3)
ZERO = torch.zeros(1, 2, 6)
META = torch.device("meta")


def broken(**weights):
    """An LSTM with other tensors in its weights' places."""
    layer = gw.LSTM(3, 6)
    for name, value in weights.items():
        delattr(layer, name)
        setattr(layer, name, value)
    return layer


UNFIT = [
    (gw.LSTM(3, 6), (X, (ZERO.double(), ZERO)), "the initial state h is torch.float64, the input is torch.float32"),
    (gw.LSTM(3, 6), (X, (ZERO, ZERO.bfloat16())), "state c is torch.bfloat16, the input is torch.float32"),
    (gw.LSTM(3, 6), (X, (ZERO, ZERO.to(META))), "the initial state c is on 'meta', the input is on 'cpu'"),
    (gw.LSTM(3, 6), (X.to(META),), "input is on 'meta', the layer's weights are on 'cpu'"),
    (gw.LSTM(3, 6, device="meta"), (X,), "input is on 'cpu', the layer's weights are on 'meta'"),
    (gw.LSTM(3, 6).double(), (X,), "input is torch.float32, the layer's weights are torch.float64"),
    (gw.LSTM(3, 6), (X.long(),), "input is torch.int64, the layer's weights are torch.float32"),
    (broken(weight_hh_l0=torch.zeros(24, 5)), (X,), "weight_hh_l0 has the shape (24, 5), expected (24, 6)"),
    (broken(weight_ih_l0=torch.zeros(3, 24)), (X,), "weight_ih_l0 has the shape (3, 24), expected (24, 3)"),
    (broken(bias_hh_l0=torch.zeros(24).double()), (X,), "hh_l0 is torch.float64, weight_ih_l0 is torch.float32"),
    (broken(bias_hh_l0=torch.zeros(24, device=META)), (X,), "bias_hh_l0 is on 'meta', weight_ih_l0 is on 'cpu'"),
    (broken(bias_hh_l0=None), (X,), "bias_hh_l0 is None, expected a tensor of shape (24,)"),
]  # fmt: skip
BACKENDS = ("cpu", "aten", "reference")


@pytest.mark.parametrize(("layer", "given", "message"), UNFIT)
@pytest.mark.parametrize("backend", BACKENDS)
def test_what_does_not_fit_reaches_no_backend(layer, given, message, backend):
    layer.backend = backend
    for mode in (torch.no_grad, torch.enable_grad):
        with mode(), pytest.raises(ShapeError, match=re.escape(message)):
            layer(*given)


@pytest.mark.parametrize(
    ("layer", "given", "message", "backend"),
    [
        pytest.param(*unfit, backend, marks=() if n % 3 == k else pytest.mark.slow)
        for n, unfit in enumerate(UNFIT)
        for k, backend in enumerate(BACKENDS)
    ],
)
def test_what_does_not_fit_reaches_no_backend_of_a_compiled_layer(layer, given, message, backend):
    layer.backend = backend
    with pytest.raises(ShapeError, match=re.escape(message)):
        torch.compile(layer, backend="eager")(*given)


def test_a_weight_of_a_wrong_shape_in_a_call():
    layer = gw.LSTM(3, 6, num_layers=2)
    with pytest.raises(
        ShapeError, match=re.escape("weight_ih_l1 has the shape (24, 3), expected (24, 6)")
    ):
        functional_call(layer, dict(weight_ih_l1=torch.zeros(24, 3)), (X,))
    layer.weight_hh_l1.data = torch.zeros(24, 7)
    with pytest.raises(ShapeError, match=re.escape("weight_hh_l1 has the shape (24, 7), expected")):
        layer(X)


def test_numbers_that_are_not_as_they_lie_in_memory():
    """torch may keep a tensor as the negative of another: what reaches the core is its value."""
    layer = gw.LSTM(3, 6)
    imaginary = torch.randn(5, 2, 3, dtype=torch.complex64).conj().imag
    assert imaginary.is_neg()
    torch.testing.assert_close(layer(imaginary), layer(imaginary.clone()), rtol=0, atol=0)
    state = torch._neg_view(torch.randn(1, 2, 6))
    found, expected = layer(X, (state, state)), layer(X, (state.clone(), state.clone()))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    grads = []
    for backend in ("cpu", "reference"):
        layer.backend = backend
        output, _ = layer(imaginary)
        loss = torch.complex(torch.ones_like(output), output).conj().square().sum().imag
        grads.append(torch.autograd.grad(loss, layer.parameters()))
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize("needs_gradient", [False, True])
def test_weights_that_are_not_as_they_lie_in_memory(needs_gradient):
    layer = gw.LSTM(3, 6)
    negated = {name: torch._neg_view(w.detach().neg()) for name, w in layer.named_parameters()}
    assert all(w.is_neg() for w in negated.values())
    given = {name: w.requires_grad_(needs_gradient) for name, w in negated.items()}
    found, expected = functional_call(layer, given, (X,)), layer(X)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    if needs_gradient:
        grads = torch.autograd.grad(found[0].sum(), tuple(given.values()))
        expected_grads = torch.autograd.grad(expected[0].sum(), layer.parameters())
        torch.testing.assert_close(grads, expected_grads)


def test_what_is_not_finite_flows():
    layer = gw.LSTM(3, 6)
    with torch.no_grad():
        layer.weight_ih_l0[0, 0] = torch.nan
    assert layer(X + 1)[0].isnan().any()
    assert layer(X + torch.inf)[0].isnan().any()
