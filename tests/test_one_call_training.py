"""A layer's training call in one call of the core, and its backward pass in another: values, gradients and their
gradients for every cell and option, what it sees of changed weights, and which calls take the longer way."""

import copy

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.autograd.graph import save_on_cpu, saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

import gatewise as gw
from cases import uses_every_part
from cells import OWN_CELLS, PROJECTABLE
from gatewise import CELLS
from gatewise.errors import GatewiseError

EVERY = {**CELLS, **OWN_CELLS}
# with a corner or a cut, where the gradient is not the slope
KINKED = ("rnn_relu", "truncated", "lstm_1997_truncated", "every_operation")


def has_one_call(cell):
    """Whether a plain layer has the short way: it reads no recurrent weights without numbers, nor coupled states."""
    layer = gw.Recurrent(cell, 2, 3)
    return layer.config.plain and layer.weight_hh_l0.numel() > 0


AT_ONCE = {name: cell for name, cell in EVERY.items() if has_one_call(cell)}
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 5e-2}


@pytest.fixture(autouse=True, scope="module")
def unset_memory_is_nan():
    """What torch.empty gives holds NaN: what is read before it is written, or never written, shows."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def is_at_once(tensor):
    return tensor.grad_fn.name() == "RunNetworkBackward"


def variants(cell):
    yield {}
    yield {"bias": False}
    yield {"batch_first": True}
    if uses_every_part(cell):
        yield {"layer_norm": True}
    if cell.name in PROJECTABLE:
        yield {"proj_size": 2}


def made(cell, inputs, units, dtype=torch.float64, **options):
    torch.manual_seed(0)
    layer = gw.Recurrent(cell, inputs, units, dtype=dtype, **options)
    with torch.no_grad():
        for weight in layer.parameters():
            weight.normal_(std=0.7)
    return layer


def drawn_states(layer, batch, dtype=torch.float64):
    widths = layer.config.state_sizes
    return [torch.randn(1, batch, w, dtype=dtype).requires_grad_() for w in widths]


def call(layer, x, states):
    hx = tuple(states) if len(states) > 1 else states[0] if states else None
    output, final = layer(x, hx)
    return output, *(final if isinstance(final, tuple) else (final,))


@pytest.mark.parametrize("name", sorted(AT_ONCE))
def test_gradients_of_one_step_by_differences(name):
    """With initial states and without, and the gradients of the gradients."""
    cell = AT_ONCE[name]
    for options in variants(cell):
        layer = made(cell, 2, 3, **options)
        weights = list(layer.parameters())
        x = torch.randn(1, 1, 2, dtype=torch.float64, requires_grad=True)
        for states in (drawn_states(layer, 1), []):
            given = (x, *states, *weights)

            def run(x, *rest, layer=layer, states=states):
                return call(layer, x, rest[: len(states)])

            assert all(map(is_at_once, run(*given)))
            if name not in KINKED:
                assert gradcheck(run, given, fast_mode=True)
                assert gradgradcheck(run, given, fast_mode=True)


SHAPES = [(1, 1), (2, 1), (1, 2), (3, 1), (5, 4), (0, 2), (3, 0)]


def by_both(layer, x, states, seed, wanted=None):
    """The results and gradients of the layer, and those of the reference in double precision."""
    found = []
    for one in (layer, copy.deepcopy(layer).double()):
        exact = one is not layer
        one.backend = "reference" if exact else "auto"
        given = [t.detach().double().requires_grad_() if exact else t for t in (x, *states)]
        results = call(one, given[0], given[1:])
        assert exact or all(map(is_at_once, results))
        torch.manual_seed(seed)
        seeds = [torch.randn(r.shape, dtype=layer.weight_ih_l0.dtype).to(r.dtype) for r in results]
        inputs = [*given, *one.parameters()]
        inputs = inputs if wanted is None else [inputs[k] for k in wanted]
        loss = sum((r * seed).sum() for r, seed in zip(results, seeds, strict=True))
        loss = loss + sum(0 * t.sum() for t in inputs)  # the reference uses none where no step is
        found.append((*results, *torch.autograd.grad(loss, inputs)))
    return found


def assert_near(found, expected, tolerance):
    for a, b in zip(found, expected, strict=True):
        a, b = a.detach().double(), b.detach()
        largest = float(b.abs().max()) if b.numel() else 0.0
        torch.testing.assert_close(a, b, rtol=0, atol=tolerance * max(largest, 1e-3))


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", ["lstm", "gru", "peephole", "mgu", "halves"])
@pytest.mark.parametrize("batch_first", [False, True])
def test_every_size_and_dtype_against_the_reference(name, batch_first, dtype):
    cell = EVERY[name]
    for options in variants(cell):
        layer = made(cell, 5, 19, dtype, **(options | {"batch_first": batch_first}))
        for steps, batch in SHAPES:
            sizes = (batch, steps) if batch_first else (steps, batch)
            x = torch.randn(*sizes, 5, dtype=dtype, requires_grad=True)
            for states in (drawn_states(layer, batch, dtype), []):
                found, expected = by_both(layer, x, states, steps)
                assert all(t.dtype == dtype for t in found)
                assert_near(found, expected, TOLERANCE[dtype])


@pytest.mark.parametrize("options", [{}, {"proj_size": 7}, {"layer_norm": True}], ids=str)
@pytest.mark.parametrize("threads", [1, 2])
def test_large_activations_and_threads(options, threads):
    """So many that the core keeps their memory; the rows or the units of a step are divided among the threads."""
    layer = made("lstm", 40, 96, torch.float32, **options)
    layer.reset_parameters()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for steps, batch in ((60, 13), (40, 1)):
            x = torch.randn(steps, batch, 40, requires_grad=True)
            found, expected = by_both(layer, x, drawn_states(layer, batch, torch.float32), 1)
            assert_near(found, expected, 1e-4)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("wanted", [[0], [1], [2], [3], [4], [1, 2], [0, 5], [6]], ids=str)
@pytest.mark.parametrize("steps", [1, 4])
def test_only_those_gradients_that_are_wanted(wanted, steps):
    layer = made("lstm", 3, 6)
    x = torch.randn(steps, 1, 3, dtype=torch.float64, requires_grad=True)
    states = drawn_states(layer, 1)
    tensors = [x, *states, *layer.parameters()]
    for k, tensor in enumerate(tensors):
        tensor.requires_grad_(k in wanted)
    found, expected = by_both(layer, x, states, 0, wanted)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_nothing_is_recorded_where_nothing_is_wanted():
    layer = made("lstm", 3, 6).requires_grad_(False)
    output, state = layer(torch.randn(1, 1, 3, dtype=torch.float64))
    assert not output.requires_grad
    assert not any(s.requires_grad for s in state)
    assert layer._one_call.network is not None


@pytest.mark.parametrize("batch_first", [False, True])
def test_inputs_states_and_gradients_as_they_lie_in_memory(batch_first):
    layer = made("lstm", 3, 6, batch_first=batch_first)
    columns = torch.randn(3, 4, 2, dtype=torch.float64).permute(1, 2, 0).requires_grad_()
    expanded = torch.randn(4, 1, 3, dtype=torch.float64).expand(4, 2, 3).requires_grad_()
    batch = 4 if batch_first else 2
    wide = [torch.randn(1, batch, 12, dtype=torch.float64)[..., ::2].requires_grad_() for _ in "hc"]
    for x in (columns, expanded):
        found, expected = by_both(layer, x, wide, 0)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)

    def gradients(backend, loss):
        layer.backend = backend
        output, state = layer(columns, tuple(wide))
        assert is_at_once(output) == (backend == "auto")
        return torch.autograd.grad(loss(output, state), [columns, *wide, *layer.parameters()])

    losses = (
        lambda y, s: y.sum(),  # its gradient has strides of 0
        lambda y, s: y.mT.sin().mT.sum() + s[0].transpose(1, 2).sin().sum(),
        lambda y, s: s[1].sum(),  # none of the output
        lambda y, s: (
            torch.view_as_complex(torch.stack((y, y * y), -1)).conj().imag.sum()
        ),  # negated
    )
    for loss in losses:
        torch.testing.assert_close(
            gradients("auto", loss), gradients("reference", loss), rtol=0, atol=1e-12
        )


class Given(torch.autograd.Function):
    """The identity, whose gradient is given."""

    @staticmethod
    def forward(ctx, x, gradient):
        ctx.gradient = gradient
        return x.clone()

    @staticmethod
    def backward(ctx, _):
        return ctx.gradient, None


@pytest.mark.parametrize("kind", ["negated view", "zero without memory", "in columns"])
def test_gradients_of_every_kind(kind):
    layer = made("lstm", 3, 6)
    x = torch.randn(2, 2, 3, dtype=torch.float64)
    plain = torch.randn(2, 2, 6, dtype=torch.float64)
    gradient = {
        "negated view": torch._neg_view(plain.neg()),
        "zero without memory": torch._efficientzerotensor((2, 2, 6), dtype=torch.float64),
        "in columns": plain.permute(2, 0, 1).contiguous().permute(1, 2, 0),
    }[kind]
    weights = list(layer.parameters())
    found = torch.autograd.grad(Given.apply(layer(x)[0], gradient).sum(), weights)
    expected = torch.autograd.grad((layer(x)[0] * gradient.clone()).sum(), weights)
    torch.testing.assert_close(found, expected)


def test_a_batch_of_gradients():
    layer = made("lstm", 3, 6, batch_first=True)
    x = torch.randn(2, 3, 3, dtype=torch.float64, requires_grad=True)
    states = drawn_states(layer, 2)
    inputs = [x, *states, *layer.parameters()]
    results = call(layer, x, states)
    seeds = [torch.randn(4, *r.shape, dtype=r.dtype) for r in results]
    found = torch.autograd.grad(results, inputs, seeds, is_grads_batched=True, retain_graph=True)
    for k in range(4):
        one = torch.autograd.grad(results, inputs, [s[k] for s in seeds], retain_graph=True)
        torch.testing.assert_close([f[k] for f in found], list(one))


@pytest.mark.filterwarnings("ignore:`torch.jit.script`:DeprecationWarning")  # in torch's own jvp
@pytest.mark.parametrize("way", ["dual level", "jvp", "vmap", "grad"])
@pytest.mark.parametrize("options", [{}, {"num_layers": 2}, {"trace": True}], ids=str)
def test_a_backward_pass_within_a_transform(way, options):
    """The gradient is linear in the gradient that is given, so its tangent is the gradient for the tangent."""
    traced = {name: value for name, value in options.items() if name == "trace"}
    layer = made("lstm", 3, 6, **{n: v for n, v in options.items() if n not in traced})
    x = torch.randn(4, 2, 3, dtype=torch.float64, requires_grad=True)
    inputs = [x, *layer.parameters()]
    output = layer(x, **traced)[0]
    seed, tangent = torch.randn(2, *output.shape, dtype=torch.float64)

    def back(seed, **options):
        return torch.autograd.grad(output, inputs, seed, retain_graph=True, **options)

    plain, along = back(seed), back(tangent)
    if way == "dual level":
        with forward_ad.dual_level():
            duals = back(forward_ad.make_dual(seed, tangent))
            parts = [forward_ad.unpack_dual(d) for d in duals]
        found = [p.primal for p in parts], [p.tangent for p in parts]
    elif way == "jvp":
        found = torch.func.jvp(back, (seed,), (tangent,))
    elif way == "vmap":
        both = torch.func.vmap(back)(torch.stack((seed, tangent)))
        found = [b[0] for b in both], [b[1] for b in both]
    else:

        def total(seed):
            return sum((g * g).sum() for g in back(seed, create_graph=True))

        found = [torch.func.grad(total)(seed)], []
        wanted = seed.clone().requires_grad_()
        plain, along = torch.autograd.grad(total(wanted), [wanted]), []
    torch.testing.assert_close(list(found[0]), list(plain), rtol=0, atol=1e-11)
    torch.testing.assert_close(list(found[1]), list(along), rtol=0, atol=1e-11)


NO_MEMORY = r"no memory|out of bounds|not allocated"  # gatewise's words and torch's


def freed(tensor):
    tensor.untyped_storage().resize_(0)
    return tensor


def without_memory(kind, *shape):
    if kind == "zero":
        return torch._efficientzerotensor(shape, dtype=torch.float64)
    whole = torch.randn(2, *shape, dtype=torch.float64)
    return freed(whole[1] if kind == "view" else whole[0])


@pytest.mark.parametrize("which", ["input", "state", "weight", "lengths"])
@pytest.mark.parametrize("kind", ["whole", "view", "zero"])
@pytest.mark.parametrize("mode", ["grad", "no_grad"])
def test_a_tensor_without_memory_is_an_error(which, kind, mode):
    """It has the address of its offset into a storage that was freed, as sharded training frees them."""
    layer, x = made("lstm", 3, 6), torch.randn(4, 2, 3, dtype=torch.float64)
    hx = lengths = None
    if which == "input":
        x = without_memory(kind, 4, 2, 3)
    elif which == "state":
        hx = without_memory(kind, 1, 2, 6), torch.zeros(1, 2, 6, dtype=torch.float64)
    elif which == "lengths":
        if kind == "zero" or mode == "grad":
            pytest.skip("lengths are integers; torch itself crashes where gradients are recorded")
        lengths = freed(torch.tensor([9, 4, 2])[1:] if kind == "view" else torch.tensor([4, 2]))
    else:
        weight = without_memory(kind, 24, 6)
        layer.weight_hh_l0 = nn.Parameter(weight)
    context = torch.enable_grad() if mode == "grad" else torch.no_grad()
    with context, pytest.raises((GatewiseError, RuntimeError), match=NO_MEMORY):
        layer(x, hx, lengths=lengths)


@pytest.mark.parametrize("which", ["input", "weight"])
@pytest.mark.parametrize("kind", ["whole", "view"])
@pytest.mark.parametrize("layers", [1, 2])
def test_memory_that_is_freed_before_the_backward_pass(which, kind, layers):
    layer = made("lstm", 3, 6, num_layers=layers)
    x = torch.randn(8, 2, 3, dtype=torch.float64)
    flat = torch.randn(288, dtype=torch.float64)
    if kind == "view":
        x = x[4:]
        layer.weight_hh_l0.data = flat[144:].view(24, 6)
    output = layer(x)[0]
    freed(x if which == "input" else layer.weight_hh_l0.data)
    with pytest.raises(RuntimeError, match=NO_MEMORY):
        output.sum().backward()


def test_create_graph_and_a_second_backward_pass():
    layer = made("lstm", 3, 6, batch_first=True)
    x = torch.randn(2, 3, 3, dtype=torch.float64, requires_grad=True)
    output, _ = layer(x)
    plain = torch.autograd.grad(output.sin().sum(), [x, *layer.parameters()], retain_graph=True)
    again = torch.autograd.grad(output.sin().sum(), [x, *layer.parameters()], create_graph=True)
    torch.testing.assert_close(plain, again, rtol=0, atol=1e-12)
    assert all(g.requires_grad for g in again)
    with torch.no_grad():
        layer.weight_hh_l0.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace"):
        output.sum().backward()


def test_results_can_be_changed_in_place():
    layer = made("lstm", 3, 6)
    output, (h, c) = layer(torch.randn(1, 1, 3, dtype=torch.float64))
    for result in (output, h, c):
        result.mul_(2)
        result.detach_()


def copied_and_turned(tensor):
    return tensor.clone().mT.contiguous().mT if tensor.dim() > 1 else tensor.clone()


def in_every_second_place(tensor):
    return torch.stack((tensor, tensor + 7), -1)[..., 0]


HOOKS = {"turned": copied_and_turned, "in places apart": in_every_second_place}


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("way", [*HOOKS, "on the CPU", "checkpoint", "reentrant checkpoint"])
def test_saved_tensors_that_come_back_as_others(way, layers):
    layer = made("lstm", 3, 6, num_layers=layers)
    x = torch.randn(4, 2, 3, dtype=torch.float64, requires_grad=True)
    weights = [x, *layer.parameters()]
    layer(x)[0].sum().backward()
    expected = [w.grad.clone() for w in weights]
    for weight in weights:
        weight.grad = None
    if way in HOOKS:
        with saved_tensors_hooks(HOOKS[way], lambda t: t):
            output = layer(x)[0]
    elif way == "on the CPU":
        with save_on_cpu():
            output = layer(x)[0]
    else:
        output = checkpoint(layer, x, use_reentrant="reentrant" in way)[0]
    output.sum().backward()
    torch.testing.assert_close([w.grad for w in weights], expected, rtol=0, atol=1e-14)


def by_numpy(weight):
    weight.detach().numpy()[...] *= 2


def by_dlpack(weight):
    torch.from_dlpack(weight.detach()).mul_(2)


def by_shared_storage(weight):
    torch.empty(0, dtype=weight.dtype).set_(weight.untyped_storage()).mul_(2)


def by_set(weight):
    with torch.no_grad():
        weight.set_(weight * 2)


def by_new_data(weight):
    weight.data = weight.detach() * 2


def without_a_gradient(weight):
    with torch.no_grad():
        weight.mul_(2)


def by_an_optimizer(weight):
    weight.grad = -weight.detach()
    torch.optim.SGD([weight], lr=1.0).step()


def by_inference_mode(weight):
    with torch.inference_mode():
        weight.mul_(2)


WRITES = {
    "data": lambda w: w.data.mul_(2),
    "numpy": by_numpy,
    "dlpack": by_dlpack,
    "shared storage": by_shared_storage,
    "set": by_set,
    "new data": by_new_data,
    "no_grad": without_a_gradient,
    "optimizer": by_an_optimizer,
    "inference mode": by_inference_mode,
}


@pytest.mark.parametrize("write", [*WRITES, "load_state_dict"])
@pytest.mark.parametrize("mode", ["grad", "no_grad", "inference_mode"])
@pytest.mark.parametrize("steps", [1, 3])
def test_every_write_to_the_weights_changes_the_next_call(write, mode, steps):
    """torch counts only some of these writes, and no mode forbids the others. So nothing that was made of the weights
    may be kept from one call to the next."""
    layer = made("lstm", 3, 6).eval()
    x = torch.randn(steps, 1, 3, dtype=torch.float64)
    modes = {"grad": torch.enable_grad, "no_grad": torch.no_grad}
    context = modes.get(mode, torch.inference_mode)
    doubled = copy.deepcopy(layer)
    with torch.no_grad():
        for weight in doubled.parameters():
            weight.mul_(2)
        doubled.backend = "reference"
        expected = doubled(x)[0].clone()
    with context():
        for _ in range(3):  # as a cache would be filled
            before = layer(x)[0]
    if write == "load_state_dict":
        layer.load_state_dict(doubled.state_dict())
    else:
        for weight in layer.parameters():
            WRITES[write](weight)
    with context():
        after = layer(x)[0]
    assert is_at_once(after) if mode == "grad" else after.grad_fn is None
    assert not torch.allclose(before, expected, atol=1e-3)
    assert torch.allclose(after.detach().clone(), expected, rtol=0, atol=1e-12)


def test_calls_that_take_the_longer_way():
    x = torch.randn(2, 2, 3)
    plain = gw.LSTM(3, 6)
    assert is_at_once(plain(x)[0])
    longer = {
        "layers": gw.LSTM(3, 6, num_layers=2),
        "directions": gw.LSTM(3, 6, bidirectional=True),
        "zoneout": gw.LSTM(3, 6, zoneout=0.1),
        "recurrent dropout": gw.LSTM(3, 6, recurrent_dropout=0.1),
        "weight drop": gw.LSTM(3, 6, weight_drop=0.1),
        "learned states": gw.LSTM(3, 6, learn_initial=True),
        "backend": gw.LSTM(3, 6, backend="reference"),
    }
    for name, layer in longer.items():
        assert not is_at_once(layer(x)[0]), name
    assert not is_at_once(plain(x, lengths=[2, 1])[0])
    assert not is_at_once(plain(x, reset=torch.zeros(2, 2, dtype=torch.bool))[0])
    assert not is_at_once(plain(x, trace=True)[0])
    assert not is_at_once(plain(x[:, 0])[0])
    nn.utils.parametrizations.weight_norm(plain, "weight_hh_l0")
    assert not is_at_once(plain(x)[0])


def test_other_parameters_in_place_of_the_own():
    layer = made("lstm", 3, 6)
    x = torch.randn(1, 2, 3, dtype=torch.float64)
    others = {name: torch.randn_like(w).requires_grad_() for name, w in layer.named_parameters()}
    output = torch.func.functional_call(layer, others, (x,))[0]
    found = torch.autograd.grad(output.sum(), list(others.values()))
    same = copy.deepcopy(layer)
    same.load_state_dict({name: w.detach() for name, w in others.items()})
    same.backend = "reference"
    expected = torch.autograd.grad(same(x)[0].sum(), list(same.parameters()))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "hx", [(), (torch.zeros(1, 2, 6),), [torch.zeros(1, 2, 6)] * 2, 3, "hc"], ids=repr
)
def test_states_that_do_not_fit_are_those_of_the_longer_way(hx):
    """An empty tuple of states is not the default."""
    layer, x = gw.LSTM(3, 6), torch.randn(1, 2, 3)

    def found(**options):
        try:
            return layer(x, hx, **options)[0].tolist()
        except GatewiseError as error:
            return type(error), str(error)

    assert found() == found(trace=True)


@pytest.mark.parametrize("mode", ["grad", "no_grad"])
def test_negated_views_of_the_same_weights(mode):
    """Their addresses are those of the weights, which the call before has read."""
    layer = made("lstm", 3, 6)
    x = torch.randn(1, 2, 3, dtype=torch.float64)
    negated = {name: torch._neg_view(w.detach()) for name, w in layer.named_parameters()}
    plain = copy.deepcopy(layer)
    plain.load_state_dict({name: -w.detach() for name, w in layer.named_parameters()})
    with torch.enable_grad() if mode == "grad" else torch.no_grad():
        layer(x)
        found = torch.func.functional_call(layer, negated, (x,))[0]
        torch.testing.assert_close(found, plain(x)[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("reshape", ["transposed", "strided", "other dtype"])
def test_weights_of_the_same_address_in_another_form(reshape):
    """They are checked at each call: data= keeps a parameter, and its address."""
    layer = gw.LSTM(8, 2)  # its input weight is square
    x = torch.randn(1, 2, 8)
    layer(x)
    weight = layer.weight_ih_l0.data
    layer.weight_ih_l0.data = {
        "transposed": weight.t(),
        "strided": weight.as_strided((8, 8), (0, 1)),
        "other dtype": weight.view(torch.float64),
    }[reshape]
    if reshape == "other dtype":
        with pytest.raises(GatewiseError):
            layer(x)
        return
    plain = gw.LSTM(8, 2, backend="reference")
    plain.load_state_dict(layer.state_dict())
    torch.testing.assert_close(layer(x)[0], plain(x)[0])
    with torch.no_grad():
        torch.testing.assert_close(layer(x)[0], plain(x)[0])
