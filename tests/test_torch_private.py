"""What is used of torch and not public: it is there, it does what is said of it, and it stands in one file."""

import ast
from itertools import product
from pathlib import Path

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad

import gatewise
from gatewise.backends import torch_private

ROOT = Path(gatewise.__file__).parent
FILE = Path(torch_private.__file__)


def seen(ask, run):
    """What ``ask`` answers outside of ``run``, and while it calls its argument."""
    answers = [ask()]

    def inside(x):
        answers.append(ask())
        return x * 1

    run(inside)
    assert len(answers) == 2
    return answers


def in_context(make):
    def run(inside):
        with make():
            inside(torch.ones(2))

    return run


@pytest.mark.filterwarnings("ignore:`torch.jit.trace`:DeprecationWarning")
def test_what_is_at_work():
    before, inside = seen(
        torch_private.tracing_state,
        lambda f: torch.jit.trace(f, torch.ones(2), check_trace=False),
    )
    assert before is None
    assert inside is not None
    assert seen(torch_private.dispatch_modes, in_context(FakeTensorMode)) == [0, 1]
    cast = in_context(lambda: torch.autocast("cpu", torch.bfloat16))
    assert seen(torch_private.any_autocast, cast) == [False, True]
    before, inside = seen(torch_private.func_interpreters, lambda f: torch.vmap(f)(torch.ones(2)))
    assert before is None
    assert inside is not None
    transforms = (in_context(forward_ad.dual_level), lambda f: torch.vmap(f)(torch.ones(2)))
    casts_or_sees = (cast, in_context(FakeTensorMode))
    for run in transforms:
        assert seen(torch_private.transformed, run) == [False, True]
    for run in casts_or_sees:
        assert seen(torch_private.transformed, run) == [False, False]
    for run in (*transforms, *casts_or_sees):
        assert seen(torch_private.watched, run) == [False, True]


@pytest.fixture
def unset_precisions(precisions_can_be_set):
    yield
    for setting in (torch.backends, torch.backends.mkldnn.rnn, torch.backends.mkldnn.matmul):
        setting.fp32_precision = "none"
    torch.backends.mkldnn.set_flags(_fp32_precision="none")


@pytest.mark.usefixtures("unset_precisions")
def test_the_precision_of_float32_is_the_public_one():
    private, public = torch_private.fp32_precision, torch_private.public_fp32_precision
    assert private is not public
    found = set()
    for whole, mkldnn, rnn, matmul in product(("none", "ieee", "tf32", "bf16"), repeat=4):
        torch.backends.fp32_precision = whole
        torch.backends.mkldnn.set_flags(_fp32_precision=mkldnn)
        torch.backends.mkldnn.rnn.fp32_precision = rnn
        torch.backends.mkldnn.matmul.fp32_precision = matmul
        both = torch.backends.mkldnn.rnn.fp32_precision, torch.backends.mkldnn.matmul.fp32_precision
        for of in (private, public):
            assert (of("mkldnn", "rnn"), of("mkldnn", "matmul")) == both
        found.add(both)
    assert len(found) == 16


def test_a_batched_tensor_and_the_one_that_it_wraps():
    shapes = []

    def look(x):
        assert torch_private.is_func_tensor(x)
        shapes.append((x.shape, torch_private.inside_func_tensor(x).shape))
        return x * 1

    torch.vmap(look)(torch.ones(3, 2))
    assert shapes == [((2,), (3, 2))]
    assert not torch_private.is_func_tensor(torch.ones(2))


def test_apply_without_its_preparation():
    seen = []

    class Twice(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, other):
            seen.append(other)
            return None if other is None else x * 2

        @staticmethod
        def backward(ctx, grad):
            return 2 * grad, None

    apply, x = torch_private.direct_apply(Twice), torch.ones(2, requires_grad=True)
    assert apply is not Twice.apply
    apply(x, "other").sum().backward()
    assert x.grad.tolist() == [2, 2]
    assert apply(x, None) is None
    assert seen == ["other", None]


def test_a_gradient_that_is_many_or_that_has_no_memory():
    found = []

    class Look(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 1

        @staticmethod
        def backward(ctx, grad):
            found.append(torch_private.is_batched_or_zero(grad))
            return grad

    x = torch.ones(2, requires_grad=True)
    torch.autograd.grad(Look.apply(x), x, torch.ones(2))
    torch.autograd.grad(Look.apply(x), x, torch.ones(3, 2), is_grads_batched=True)
    assert found == [False, True]
    assert torch_private.is_batched_or_zero(torch._efficientzerotensor(2))


def test_below_autograd():
    x = torch.ones(2, requires_grad=True)
    with torch_private.below_autograd():
        assert not (x * 2).requires_grad
    assert (x * 2).requires_grad


def test_what_torch_compile_is_told():
    def one():
        return 1

    public = torch.compiler.assume_constant_result(lambda: 1)
    assert vars(torch_private.constant(one)) == vars(public)
    assert torch_private.constant(one) is one
    assert torch_private.nonstrict_trace(one)() == 1
    tensor, other = torch.ones(3), torch.ones(3)
    torch_private.mark_length_static(tensor)
    torch._dynamo.mark_static(other, 0)
    assert tensor._dynamo_static_indices == other._dynamo_static_indices
    assert torch_private.compiler_parts() is not None


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="needs oneDNN")
def test_whether_onednn_has_a_type():
    """What each answers depends on the processor."""
    assert set(torch_private.ONEDNN_HAS) == {torch.bfloat16, torch.float16}
    assert {type(has()) for has in torch_private.ONEDNN_HAS.values()} == {bool}


def test_attributes_of_modules():
    module = nn.LSTM(2, 3)
    state = vars(nn.Linear(2, 3))
    assert [name for name in torch_private.MODULE_ATTRIBUTES if name not in state] == []
    # those that are left out are of no use to another module
    assert {k for k in state if k not in torch_private.MODULE_ATTRIBUTES} == {
        *("_modules", "in_features", "out_features"),
    }
    assert [name for name in torch_private.RNN_CACHES if name not in vars(module)] == []


def private_names(path):
    """What a file names of torch that begins with one underscore, however deep."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute):
            names = dotted(node)
            if names[0] in ("torch", "forward_ad") and any(map(is_private, names)):
                found.add(".".join(names))
        elif isinstance(node, ast.Import | ast.ImportFrom):
            base = (node.module or "").split(".") if isinstance(node, ast.ImportFrom) else []
            for alias in node.names:
                names = [*base, *alias.name.split(".")]
                if names[0] == "torch" and any(map(is_private, names)):
                    found.add(".".join(names))
        elif isinstance(node, ast.Constant) and str(node.value).startswith("_dynamo"):
            found.add(node.value)
    return found


def is_private(name):
    return name.startswith("_") and not name.startswith("__")


def dotted(node):
    names = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    return [*([node.id] if isinstance(node, ast.Name) else [""]), *reversed(names)]


def test_no_other_file_has_any():
    assert "torch._C._len_torch_dispatch_stack" in private_names(FILE)
    assert "torch._dynamo.source.FloatTensorSource" in private_names(FILE)
    others = {str(path.relative_to(ROOT)): private_names(path) for path in ROOT.rglob("*.py")}
    del others[str(FILE.relative_to(ROOT))]
    assert {path: names for path, names in others.items() if names} == {}


@pytest.mark.parametrize(("name", "faster"), [("Intel Xeon", False), ("AMD EPYC", True)])
def test_the_processors_on_which_onednn_is_faster(name, faster, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"cpu_name": name})
    assert torch_private.onednn_is_faster.__wrapped__() == faster


def test_this_processor_has_a_name():
    assert torch.cpu.get_capabilities()["cpu_name"]


@pytest.mark.parametrize("faster", [True, False])
def test_a_large_product(faster, monkeypatch):
    monkeypatch.setattr(torch_private, "onednn_is_faster", lambda: faster)
    x, weight, bias = torch.randn(6, 5), torch.randn(7, 5), torch.randn(7)
    expected = torch.nn.functional.linear(x, weight, bias)
    torch.testing.assert_close(torch_private.fast_linear(x, weight, bias), expected)
    turned = torch_private.fast_linear(x.t(), expected.t())  # views of other strides
    torch.testing.assert_close(turned, x.t() @ expected)
    wide = torch_private.fast_linear(x.double(), weight.double())
    torch.testing.assert_close(wide, x.double() @ weight.double().t())


def test_a_fused_optimizer_whose_gradients_the_caller_unscales():
    weight = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([weight], fused=True)
    assert optimizer._step_supports_amp_scaling
    torch_private.expect_unscaled_gradients(optimizer)
    assert not optimizer._step_supports_amp_scaling
    weight.grad = torch.ones(3)
    optimizer.step()
    assert (weight < 1).all()
