"""What a caller may give a layer or cell, what it gives back, and what is refused in a sentence."""

import copy

import numpy as np
import pytest
import torch
from torch.func import functional_call, grad, vmap
from torch.nn.utils._per_sample_grad import call_for_per_sample_grads
from torch.nn.utils.rnn import pack_sequence
from torch.utils._pytree import tree_leaves, tree_map

import gatewise as gw
from gatewise.errors import BackendError, ShapeError

X, H = torch.zeros(5, 2, 3), torch.zeros(1, 2, 4)
IMAGES, STATE_OF_IMAGES = torch.zeros(5, 2, 3, 4, 4), torch.zeros(1, 2, 4, 4, 4)


@gw.cell(gates="z", state="h c")
def handing_on(a, s):
    """Has one value twice among its states."""
    h = gw.tanh(a.z)
    return dict(h=h, c=h)


@gw.cell(gates="z", state="h c")
def keeping(a, s):
    """Hands a state on as it was."""
    return dict(h=gw.tanh(a.z) * s.c, c=s.c + 0)


# Each with an input and one state of the shape that it takes.
MODULES = {
    "LSTM": (lambda **o: gw.LSTM(3, 4, **o), X, H),
    "GRU, two layers both ways": (lambda **o: gw.GRU(3, 4, 2, bidirectional=True, **o), X, H),
    "projected": (lambda **o: gw.LSTM(3, 4, proj_size=2, **o), X, H),
    "minlstm": (lambda **o: gw.Recurrent("minlstm", 3, 4, **o), X, H),
    "normalised": (lambda **o: gw.RNN(3, 4, layer_norm=True, **o), X, H),
    "of equal states": (lambda **o: gw.Recurrent(handing_on, 3, 4, **o), X, H),
    "MLSTM": (lambda **o: gw.MLSTM(3, 4, 2, **o), X, H),
    "Stack": (lambda **o: gw.Stack(gw.LSTM(3, 4, **o), gw.MLSTM(4, 4, **o)), X, H),
    "Bidirectional": (lambda **o: gw.Bidirectional(gw.LSTM(3, 4, **o)), X, H),
    "Bidirectional MLSTM": (lambda **o: gw.Bidirectional(gw.MLSTM(3, 4, **o)), X, H),
    "Reversed": (lambda **o: gw.Reversed(gw.GRU(3, 4, **o)), X, H),
    "HybridBlock": (lambda **o: gw.HybridBlock(3, 1, **o), X, H),
    "ConvLSTM": (lambda **o: gw.ConvLSTM(3, 4, 3, **o), IMAGES, STATE_OF_IMAGES),
}
CELLS = {
    "LSTMCell": lambda **o: gw.LSTMCell(3, 4, **o),
    "GRUCell": lambda **o: gw.GRUCell(3, 4, **o),
    "RNNCell": lambda **o: gw.RNNCell(3, 4, **o),
    "slstm": lambda **o: gw.RecurrentCell("slstm", 3, 4, **o),
    "of equal states": lambda **o: gw.RecurrentCell(handing_on, 3, 4, **o),
    "keeping": lambda **o: gw.RecurrentCell(keeping, 3, 4, **o),
}
MODES = {"grad": torch.enable_grad, "no_grad": torch.no_grad, "inference": torch.inference_mode}


def states_of(module, *given, **options):
    return tree_leaves(module(*given, **options)[1:])


# Final states ---------------------------------------------------------------------------------------


def assert_own(states, given=()):
    """Each can be detached and changed in place, and no other of them changes with it."""
    before = [s.detach().clone() for s in (*states, *given)]
    for k, state in enumerate(states):
        state.detach_()
        state.add_(1)
        before[k] += 1
        for found, expected in zip((*states, *given), before, strict=True):
            torch.testing.assert_close(found.detach(), expected, rtol=0, atol=0)


@pytest.mark.pairwise
@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
@pytest.mark.parametrize("batch_first", [False, True], ids=["T×B", "B×T"])
@pytest.mark.parametrize("steps", [0, 1, 5])
@pytest.mark.parametrize("kind", MODULES)
def test_final_states_of_layers_are_tensors_of_their_own(kind, steps, batch_first, mode):
    make, x, _ = MODULES[kind]
    module = make(batch_first=batch_first)
    x = x[:steps] + 0.5
    alone = x[:, 0]
    x = x.transpose(0, 1) if batch_first else x
    with mode():
        for given in (x, alone):
            assert_own(states_of(module, given))
        if steps:
            assert_own(states_of(module, x, lengths=torch.tensor([steps, 0])))
            state = module(x)[1]
            if kind != "HybridBlock":
                assert_own(states_of(module, x, state), tree_leaves(state))


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
@pytest.mark.parametrize("backend", ["reference", "aten", "cpu"])
def test_final_states_in_every_backend(backend, mode):
    with mode():
        assert_own(states_of(gw.GRU(3, 4, backend=backend), X + 0.5))


@pytest.mark.pairwise
@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
@pytest.mark.parametrize("backend", ["auto", "reference", "cpu"])
@pytest.mark.parametrize("kind", CELLS)
def test_states_of_cells_are_tensors_of_their_own(kind, backend, mode):
    cell = CELLS[kind](backend=backend)
    with mode():
        for x in (X[0] + 0.5, X[0, 0] + 0.5):
            state = cell(x)
            assert_own(tree_leaves(cell(x, state)), tree_leaves(state))


def test_a_state_carried_on_and_detached_trains_as_torchs():
    torch.manual_seed(0)
    x = torch.randn(4, 5, 2, 3)
    ours = gw.LSTM(3, 4)
    theirs = torch.nn.LSTM(3, 4)
    theirs.load_state_dict(ours.state_dict())
    for module in (ours, theirs):
        state = None
        for chunk in x:
            y, state = module(chunk, state)
            y.square().sum().backward()
            for each in state:
                each.detach_()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


# What is refused ------------------------------------------------------------------------------------


def wrong_states(s):
    """What no module of these takes for its state, by what it is."""
    return {
        "nested": ((s, s),), "twice nested": ((s, s), (s, s)), "too many": (s,) * 9, "none in it": (s, None),
        "a number": 5, "text": "ab", "bytes": b"ab", "mapping": {"h": s, "c": s}, "array": s.numpy(),
        "arrays": (s.numpy(), s.numpy()), "empty": (), "iterator": iter([s, s]), "numbers": (1, 2),
        "text in it": (s, "a"), "an object": object(), "a scalar": torch.tensor(1.0),
        "scalars": (torch.tensor(1.0),) * 2, "wide": (torch.cat([s, s], -1),) * 2, "long": (s.long(),) * 2,
        "boolean": (s.bool(),) * 2, "complex": (s.to(torch.complex64),) * 2, "double": (s.double(),) * 2,
        "sparse": (s.to_sparse(),) * 2, "nested tensor": (torch.nested.nested_tensor([s, s]),) * 2,
        "meta": (s.to("meta"),) * 2, "packed": torch.nn.utils.rnn.pack_sequence([s]), "True": True,
    }  # fmt: skip


def is_taken(module, *given):
    """False where it is refused as it ought to be; another error is a failure."""
    try:
        module(*given)
    except ShapeError:
        return False
    return True


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
@pytest.mark.parametrize("kind", [*MODULES, *CELLS])
def test_states_that_are_none(kind, mode):
    if kind in CELLS and kind not in MODULES:
        pairs = [(CELLS[kind](), X[0], H[0]), (CELLS[kind](), X[0, 0], H[0, 0])]
    else:
        make, x, state = MODULES[kind]
        pairs = [(make(), x, state), (make(), x[:, 0], state[:, 0])]
    with mode():
        for module, x, state in pairs:
            wrong = wrong_states(state)
            assert [what for what, each in wrong.items() if is_taken(module, x, each)] == []


@pytest.fixture
def compiler_of_its_own():
    """What raises while it is traced is never traced again in this process, until this."""
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("compiler_of_its_own")
def test_states_that_are_none_under_compile():
    """Eager stands for every compiler: what is refused is refused while it traces."""
    cell = torch.compile(gw.LSTMCell(3, 4), backend="eager")
    layer = torch.compile(gw.GRU(3, 4), backend="eager")
    with pytest.raises(ShapeError, match="hx has a tuple where lstm's states"):
        cell(X[0], ((H[0], H[0]),))
    with pytest.raises(ShapeError, match="hx has a NoneType"):
        cell(X[0], (H[0], None))
    with pytest.raises(ShapeError, match=r"Expected hidden size \(1, 2, 4\), got \[1, 2, 3\]"):
        layer(X, H[..., :3])


INPUTS = {
    "None": lambda x: None,
    "a list": lambda x: x.tolist(),
    "an array": lambda x: x.numpy(),
    "a tuple": lambda x: (x,),
    "whole numbers": lambda x: x.long(),
    "complex": lambda x: x.to(torch.complex64),
    "sparse": lambda x: x.to_sparse(),
    "quantized": lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.quint8),
    "mkldnn": lambda x: x.to_mkldnn(),
    "nested": lambda x: torch.nested.nested_tensor([x[0], x[0]]),
    "jagged": lambda x: torch.nested.nested_tensor([x[0], x[0]], layout=torch.jagged),
    "meta": lambda x: x.to("meta"),
    "a scalar": lambda x: torch.tensor(1.0),
    "too many dimensions": lambda x: x[..., None],
}

PACKED = pack_sequence([torch.zeros(5, 3), torch.zeros(3, 3)])
STEP, ONE = torch.zeros(2, 3), torch.zeros(2, 4)
PACKED_2D = r"Expected hidden size \(1, 2, 4\), got \[2, 4\]"
TYPES = "mat1 and mat2 must have the same dtype, but got Double and Float"
LIKE_TORCHS = [
    ("LSTM", X, (H, H, H), RuntimeError, "lstm expects two hidden states"),
    ("LSTM", PACKED, (H, H, H), RuntimeError, "lstm expects two hidden states"),
    ("LSTMCell", STEP, (ONE,), RuntimeError, "lstm_cell expects two hidden states"),
    ("LSTMCell", STEP, (ONE, ONE, ONE), RuntimeError, "lstm_cell expects two hidden states"),
    ("LSTMCell", STEP, ONE, TypeError, "must be tuple of Tensors, not Tensor"),
    ("LSTMCell", STEP, {}, TypeError, "must be tuple of Tensors, not dict"),
    ("GRU", PACKED, ONE, RuntimeError, PACKED_2D),
    ("RNN", PACKED, ONE, RuntimeError, PACKED_2D),
    ("GRU", X, H.double(), RuntimeError, TYPES),
    ("RNN", X, H.double(), RuntimeError, TYPES),
    ("LSTM", PACKED, (H.double(), H.double()), RuntimeError, TYPES),
    ("LSTMCell", STEP, (ONE.double(), ONE.double()), RuntimeError, TYPES),
    ("GRUCell", STEP, ONE.double(), RuntimeError, TYPES),
    ("RNNCell", STEP, ONE.bfloat16(), RuntimeError, "but got BFloat16 and Float"),
    ("GRUCell", STEP.double(), ONE, RuntimeError, TYPES),
    ("GRU", PACKED._replace(data=torch.zeros(8, 7)), None, RuntimeError, "Expected 3, got 7"),
    (
        *("LSTM", PACKED._replace(data=torch.zeros(8, 7)), None, RuntimeError),
        r"mat1 and mat2 shapes cannot be multiplied \(8x7 and 3x16\)",
    ),
]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("name", "x", "hx", "error", "sentence"), LIKE_TORCHS)
def test_what_does_not_fit_is_said_in_torchs_sentence_too(name, x, hx, error, sentence, mode):
    with MODES[mode]():
        for module in (getattr(torch.nn, name)(3, 4), getattr(gw, name)(3, 4)):
            with pytest.raises(error, match=sentence) as caught:
                module(x, hx)
    assert isinstance(caught.value, ShapeError)


def test_a_packed_input_of_another_width_has_the_shape_that_it_was_given_in():
    with pytest.raises(ShapeError, match=r"the packed input's data has the shape \(8, 7\)"):
        gw.LSTM(3, 4)(PACKED._replace(data=torch.zeros(8, 7)))


@pytest.mark.filterwarnings(
    "ignore:.*[nN]ested tensors:UserWarning", "ignore:.*quantized:UserWarning"
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's, of quantized tensors
@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
@pytest.mark.parametrize("kind", [*MODULES, *CELLS])
def test_inputs_that_are_none(kind, mode):
    module, x = (
        (CELLS[kind](), X[0]) if kind not in MODULES else (MODULES[kind][0](), MODULES[kind][1])
    )
    wrong = {what: made(x) for what, made in INPUTS.items()}
    with mode():
        assert [what for what, each in wrong.items() if is_taken(module, each)] == []


def test_what_is_said_of_a_layout():
    with pytest.raises(
        ShapeError, match=r"layout torch\.sparse_coo, expected torch\.strided; give its"
    ):
        gw.LSTM(3, 4)(X.to_sparse())
    with pytest.raises(ShapeError, match=r"a nested tensor.*to_padded_tensor.*lengths="):
        gw.LSTM(3, 4)(torch.nested.nested_tensor([X[:, 0], X[:2, 0]], layout=torch.jagged))


LENGTHS = {
    "2^63": ([2**63, 1], "expected an integer for each sequence"),
    "2^70": ([2**70, 1], "expected an integer for each sequence"),
    "2^63 of uint64": (np.array([2**63, 1], np.uint64), "length 9223372036854775808 of sequence 0"),
    "below zero": ([-1, 2], "length -1 of sequence 0 is not in 0…5"),
    "too long": ([5, 6], "length 6 of sequence 1 is not in 0…5"),
    "text": (["a", "b"], "lengths is"),
    "None in it": ([None, 1], "lengths is"),
    "an object": (object(), "lengths is"),
    "a mapping": ({}, "lengths is"),
    "fractions": ([1.5, 2], "lengths must be integers"),
    "booleans": ([True, False], "lengths must be integers"),
    "too few": ([1], r"lengths has the shape \(1,\), expected \(2,\)"),
    "meta": (torch.tensor([1, 2], device="meta"), "lengths is on 'meta', the input is on 'cpu'"),
}


@pytest.mark.pairwise
@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
@pytest.mark.parametrize("what", LENGTHS)
@pytest.mark.parametrize("kind", MODULES)
def test_lengths_that_are_none(kind, what, mode):
    make, x, _ = MODULES[kind]
    lengths, message = LENGTHS[what]
    with mode(), pytest.raises(ShapeError, match=message):
        make()(x, lengths=lengths)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint64, np.int16, np.int64])
def test_lengths_of_any_whole_type(dtype):
    layer, x = gw.LSTM(3, 4), torch.randn(5, 2, 3)
    found, expected = layer(x, lengths=np.array([2, 5], dtype)), layer(x, lengths=[2, 5])
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    "reset", [{}, "ab", [None, 1], [2**63], NotImplemented, X.bool().to_sparse()], ids=repr
)
def test_resets_that_are_none(reset):
    with pytest.raises(ShapeError, match="reset"):
        gw.LSTM(3, 4)(X, reset=reset)


# Tensors and objects that override torch's functions -------------------------------------------------


class Wrapped:
    """A tensor in an object that is none, as torch's own tests of overrides have it."""

    def __init__(self, tensor):
        self.tensor = tensor

    def __getattr__(self, name):
        return getattr(self.tensor, name)

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        def bare(value):
            return value.tensor if isinstance(value, cls) else value

        found = function(*tree_map(bare, args), **tree_map(bare, kwargs or {}))
        return tree_map(lambda t: cls(t) if isinstance(t, torch.Tensor) else t, found)


class Marked(torch.Tensor):
    """A kind of tensor that torch's functions keep."""


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
@pytest.mark.parametrize("kind", [*MODULES, *CELLS])
def test_what_overrides_torchs_functions_gets_through(kind, mode):
    torch.manual_seed(0)
    module, x = (
        (CELLS[kind](), X[0]) if kind not in MODULES else (MODULES[kind][0](), MODULES[kind][1])
    )
    x = torch.randn_like(x)
    with mode():
        expected = tree_leaves(module(x))
        wrapped = tree_leaves(module(Wrapped(x)))
        marked = tree_leaves(module(x.as_subclass(Marked)))
    assert all(isinstance(each, Wrapped) for each in wrapped)
    assert all(isinstance(each, Marked) for each in marked)
    for found, other, right in zip(wrapped, marked, expected, strict=True):
        torch.testing.assert_close(found.tensor, right)
        torch.testing.assert_close(other.as_subclass(torch.Tensor), right)


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
def test_states_that_override_torchs_functions(mode):
    torch.manual_seed(0)
    layer, cell, x, h = gw.LSTM(3, 4), gw.LSTMCell(3, 4), torch.randn(5, 2, 3), torch.randn(1, 2, 4)
    with mode():
        for given in ((x, (Wrapped(h), Wrapped(h))), (Wrapped(x), (h, Wrapped(h)))):
            found = tree_leaves(layer(*given))
            for each, right in zip(found, tree_leaves(layer(x, (h, h))), strict=True):
                torch.testing.assert_close(each.tensor, right)
        found = cell(x[0], (Wrapped(h[0]), Wrapped(h[0])))
        for each, right in zip(found, cell(x[0], (h[0], h[0])), strict=True):
            torch.testing.assert_close(each.tensor, right)


def test_a_table_of_functions_that_lacks_ours_says_so():
    class Table(Wrapped):
        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):
            return NotImplemented

    with pytest.raises(TypeError, match="no implementation found"):
        gw.LSTM(3, 4)(Table(X))


# Gradients of each sample ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "x"),
    [
        (gw.LSTM(3, 4, batch_first=True), X),
        (gw.GRU(3, 4), X),
        (gw.LSTMCell(3, 4), X[0]),
        (gw.MLSTM(3, 4), X),
        (gw.ConvLSTM(3, 4, 3), IMAGES),
    ],
    ids=lambda of: type(of).__name__,
)
def test_torchs_expanded_weights_are_refused_with_what_does_it(module, x):
    with pytest.raises(
        BackendError, match=r"for the gradients of each sample use torch\.func: vmap\(grad"
    ):
        call_for_per_sample_grads(copy.deepcopy(module))(x)


def test_a_gradient_of_each_sample():
    torch.manual_seed(0)
    layer, samples = gw.LSTM(3, 4), torch.randn(6, 5, 3)
    values = {name: p.detach() for name, p in layer.named_parameters()}

    def loss(parameters, sample):
        return functional_call(layer, parameters, (sample,))[0].square().sum()

    found = vmap(grad(loss), in_dims=(None, 0))(values, samples)
    for k, sample in enumerate(samples):
        layer.zero_grad()
        layer(sample)[0].square().sum().backward()
        for name, parameter in layer.named_parameters():
            torch.testing.assert_close(found[name][k], parameter.grad)


# Cells of no size -----------------------------------------------------------------------------------


@pytest.mark.pairwise
@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
@pytest.mark.parametrize(("inputs", "units"), [(3, 0), (0, 4), (0, 0)])
@pytest.mark.parametrize("name", ["RNNCell", "GRUCell", "LSTMCell"])
def test_cells_without_units_or_inputs_are_torchs(name, inputs, units, mode):
    torch.manual_seed(0)
    theirs = getattr(torch.nn, name)(inputs, units)
    ours = getattr(gw, name)(inputs, units)
    ours.load_state_dict(theirs.state_dict())
    results = []
    for cell in (theirs, ours):
        x = torch.randn(2, inputs, generator=torch.Generator().manual_seed(1), requires_grad=True)
        with mode():
            found = tree_leaves(cell(x))
        gradients = []
        if mode is torch.enable_grad:
            sum(each.square().sum() for each in found).backward()
            gradients = [x.grad, *(p.grad for p in cell.parameters())]
        results.append([*found, *gradients])
    assert all(each.shape == (2, units) for each in results[1][: len(tree_leaves(found))])
    torch.testing.assert_close(results[1], results[0])


@pytest.mark.parametrize("cell", list(gw.CELLS))
def test_every_cell_without_units(cell):
    made = gw.RecurrentCell(cell, 3, 0)
    assert all(state.shape == (2, 0) for state in tree_leaves(made(X[0])))


@pytest.mark.parametrize("batch_first", [False, True])
def test_what_torch_cannot_allocate_is_an_error_of_the_call_at_once(batch_first):
    """Not a reason to go the slower way, which would fail too."""
    layer = gw.LSTM(3, 4, batch_first=batch_first)
    with torch.no_grad():
        layer(X)
    network, at_once = layer._one_call.network, []
    network.run = lambda *given, run=network.run: at_once.append(1) or run(*given)
    x = (
        torch.zeros(1, 1, 3).expand(1, 2**46, 3)
        if batch_first
        else torch.zeros(1, 1, 3).expand(2**46, 1, 3)
    )
    with torch.no_grad(), pytest.raises(RuntimeError, match="allocate") as caught:
        layer(x)
    assert at_once
    assert caught.traceback[-1].name == "<lambda>"


@pytest.mark.parametrize("kind", ["contiguous", "in columns", "expanded"])
@pytest.mark.parametrize("batch_first", [False, True])
def test_inputs_and_states_as_they_lie_in_memory(kind, batch_first):
    """The core copies those whose values of a step are not side by side."""
    layer = gw.LSTM(3, 4, 2, batch_first=batch_first)
    lie = {
        "contiguous": lambda t: t.clone(),
        "in columns": lambda t: t.permute(2, 0, 1).contiguous().permute(1, 2, 0),
        "expanded": lambda t: t[:, :1].expand_as(t),
    }[kind]
    x, hx = (
        lie(torch.randn(5, 2, 3)),
        [lie(torch.randn(2, 5 if batch_first else 2, 4)) for _ in "hc"],
    )
    with torch.no_grad():
        at_once = layer(x, tuple(hx))
        assert layer._one_call.network is not None
        plain = gw.LSTM(3, 4, 2, batch_first=batch_first, backend="reference")
        plain.load_state_dict(layer.state_dict())
        expected = plain(x.clone(), tuple(s.contiguous() for s in hx))
    torch.testing.assert_close(at_once, expected)
