"""torch's own test inputs for its recurrent modules, put through ours of the same name."""

import copy

import pytest
import torch
from torch.nn.utils.rnn import PackedSequence
from torch.testing._internal.common_modules import module_db
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


@pytest.mark.parametrize(("name", "k"), cases("error_inputs"))
def test_what_torch_refuses_is_refused_by_name(name, k):
    """Not by torch's words: an error of ours says what was given and what was expected."""
    case = drawn(name, "error_inputs", torch.float32)[k]
    given = case.module_error_input
    args, options = given.constructor_input.args, given.constructor_input.kwargs

    def used():
        module = getattr(gw, name)(*args, **options)
        module(*given.forward_input.args, **given.forward_input.kwargs)

    with pytest.raises(gw.GatewiseError):
        used()
