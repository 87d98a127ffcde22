"""torch's own test inputs for its recurrent modules, put through ours of the same name."""

import copy
from contextlib import nullcontext

import pytest
import torch
from torch.nn.utils.rnn import PackedSequence
from torch.testing._internal.common_modules import ModuleErrorEnum, module_db
from torch.testing._internal.common_utils import freeze_rng_state

import gatewise as gw

NAMES = ("LSTM", "GRU", "RNN", "LSTMCell", "GRUCell", "RNNCell")
INFOS = {info.module_cls.__name__: info for info in module_db if info.module_cls.__name__ in NAMES}
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections:UserWarning")  # torch's own
CLOSE = {torch.float32: dict(rtol=1e-5, atol=1e-6), torch.float64: dict(rtol=1e-9, atol=1e-11)}


def drawn(name, kind, dtype):
    """torch's inputs for its module, those with packed sequences too; the same at each call."""
    torch.manual_seed(0)
    made = getattr(INFOS[name], f"module_{kind}_func")
    packed = dict(with_packed_sequence=True) if kind == "inputs" else {}
    return made(INFOS[name], device="cpu", dtype=dtype, requires_grad=True, training=True, **packed)


def cases(kind):
    """Name and number of each."""
    return [(name, k) for name in INFOS for k in range(len(drawn(name, kind, torch.float32)))]


def tensors(value):
    """The tensors in it, those of a packed sequence by its data."""
    if isinstance(value, PackedSequence):
        return [value.data]
    if isinstance(value, torch.Tensor):
        return [value]
    return [t for each in value for t in tensors(each)]


def test_all_of_torchs_recurrent_modules_are_in_its_list():
    assert set(INFOS) == set(NAMES)


@pytest.mark.pairwise
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("name", "k"), cases("inputs"))
def test_forward_and_gradients(name, k, dtype, training):
    given = drawn(name, "inputs", dtype)[k]
    args, options = given.constructor_input.args, given.constructor_input.kwargs
    theirs = getattr(torch.nn, name)(*args, **options, dtype=dtype).train(training)
    ours = getattr(gw, name)(*args, **options, dtype=dtype).train(training)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    found = []
    for module in (theirs, ours):
        inputs, more = copy.deepcopy((given.forward_input.args, given.forward_input.kwargs))
        with freeze_rng_state():
            outputs = tensors(module(*inputs, **more))
        loss = sum((t.double() * torch.arange(1, t.numel() + 1).view_as(t)).sum() for t in outputs)
        leaves = [t for t in tensors(inputs) if t.requires_grad] + list(module.parameters())
        found.append((outputs, torch.autograd.grad(loss, leaves)))
    (outputs, gradients), (our_outputs, our_gradients) = found
    assert len(outputs) == len(our_outputs)
    assert len(gradients) == len(our_gradients) > 2
    torch.testing.assert_close(our_outputs, outputs, **CLOSE[dtype])
    torch.testing.assert_close(our_gradients, gradients, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("name", "k"), cases("inputs"))
def test_without_a_gradient(name, k):
    given = drawn(name, "inputs", torch.float32)[k]
    args, options = given.constructor_input.args, given.constructor_input.kwargs
    theirs, ours = (getattr(of, name)(*args, **options).eval() for of in (torch.nn, gw))
    ours.load_state_dict(theirs.state_dict())
    with torch.no_grad():
        expected, found = (
            m(*given.forward_input.args, **given.forward_input.kwargs) for m in (theirs, ours)
        )
    torch.testing.assert_close(tensors(found), tensors(expected), **CLOSE[torch.float32])


@pytest.mark.pairwise
@pytest.mark.filterwarnings("ignore:bias='(relu|tanh)' is taken as bias=True")
@pytest.mark.parametrize("grad", [True, False], ids=["grad", "no_grad"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("name", "k"), cases("error_inputs"))
def test_what_torch_refuses_is_refused_alike(name, k, dtype, grad):
    """An error of ours, of torch's type and with torch's sentence in it."""
    case = drawn(name, "error_inputs", dtype)[k]
    given = case.module_error_input
    args, options = given.constructor_input.args, given.constructor_input.kwargs
    in_forward = case.error_on == ModuleErrorEnum.FORWARD_ERROR
    raised = pytest.raises(case.error_type, match=case.error_regex)
    with torch.set_grad_enabled(grad), nullcontext() if in_forward else raised as error:
        module = getattr(gw, name)(*args, **options)
    if in_forward:
        if "dtype" not in case.error_regex:  # torch's test too has these run in the layer's type
            module = module.to(dtype)
        with torch.set_grad_enabled(grad), raised as error:
            module(*given.forward_input.args, **given.forward_input.kwargs)
    assert isinstance(error.value, gw.GatewiseError)


def words(call):
    """The class of error and what it says."""
    with pytest.raises(Exception) as error:  # noqa: PT011  torch's is of many classes
        call()
    return type(error.value), str(error.value)


X = torch.zeros(5, 2, 3)
H = torch.zeros(2, 2, 4)
CONSTRUCTED = {  # of torch's module, the arguments beside input_size=3 and hidden_size=4
    "LSTM": [
        dict(num_layers=-1), dict(dropout=1.5), dict(dropout=True), dict(proj_size=4), dict(proj_size=-1),
        dict(batch_first="no"), dict(hidden_size="4"), dict(input_size=3.0), dict(hidden_size=-2),
    ],
    "GRU": [dict(proj_size=2), dict(bias=None), dict(num_layers=0), dict(dropout=-0.1)],
    "RNN": [dict(nonlinearity="gelu"), dict(proj_size=2), dict(batch_first=1)],
}  # fmt: skip
CALLED = {  # of a module of two layers: input and hx
    "LSTM": [
        (X[0, 0], None), (torch.zeros(1, 5, 2, 3), None), (X[..., :2], None), (X, (H[0], H[0])),
        (X[:, 0], (H, H)), (X, (H[:, :1], H)), (X, (H, H[:1])), (X[:, 0], (H[:, 0], H[:1, 0])),
        (X.double(), None), (X.to("meta"), None), (X, (H.to("meta"), H.to("meta"))),
    ],
    "GRU": [
        (X[0, 0], None), (X[..., :2], None), (X, H[0]), (X[:, 0], H), (X, H[..., :3]),
        (X[:, 0], H[:, 0, :3]), (X.double(), None),
    ],
    "RNN": [(torch.zeros(1, 5, 2, 3), None), (X, H[0]), (X[:, 0], H), (X, H[:, :1])],
    "LSTMCell": [
        (X, None), (X[0, :, :2], None), (X[0, 0, :2], None), (X[0], (H[0], H[0, :1])),
        (X[0], (H[0, :, :3], H[0])), (X[0], (H[0], H[None])), (X[0, 0], (H[0], H[0])),
    ],
    "GRUCell": [(X, None), (X[0, :, :2], None), (X[0], H[0, :1]), (X[0], H), (X[0], H[None])],
    "RNNCell": [(X, None), (X[0], H[0, :, :3]), (X[0], H), (X[0], H[0, :1])],
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "options"), [(name, each) for name, all in CONSTRUCTED.items() for each in all]
)
def test_constructors_refuse_in_torchs_words(name, options):
    given = dict(input_size=3, hidden_size=4) | options
    kind, sentence = words(lambda: getattr(torch.nn, name)(**given))
    ours, text = words(lambda: getattr(gw, name)(**given))
    assert sentence in text
    assert issubclass(ours, kind)
    assert issubclass(ours, gw.GatewiseError)


@pytest.mark.parametrize("grad", [True, False], ids=["grad", "no_grad"])
@pytest.mark.parametrize(
    ("name", "given"), [(name, each) for name, all in CALLED.items() for each in all]
)
def test_calls_are_refused_in_torchs_words(name, given, grad):
    layers = () if name.endswith("Cell") else (2,)
    with torch.set_grad_enabled(grad):
        kind, sentence = words(lambda: getattr(torch.nn, name)(3, 4, *layers)(*given))
        ours, text = words(lambda: getattr(gw, name)(3, 4, *layers)(*given))
    assert issubclass(ours, kind)
    assert issubclass(ours, gw.GatewiseError)
    if "mat1 and mat2" not in sentence:  # torch's is of the product then
        assert sentence in text
