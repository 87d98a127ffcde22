"""The kernels on a GPU, at sizes that the interpreter cannot run: values, gradients, and what torch does
with them. Skipped where there is none."""

from dataclasses import replace

import pytest
import torch

import gatewise as gw
from cases import ALL, assert_within, case, uses_every_part
from cells import OWN_CELLS, PROJECTABLE
from gatewise import CELLS
from gatewise.backends import reference, triton
from gatewise.backends.contract import Weights
from gatewise.cells.language import topological

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")

EVERY = {**CELLS, **OWN_CELLS}
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 8e-3}
LENGTHS = (9, 0, 4, 9, 1)
KINKED = {"relu", "maximum", "minimum"}


class OnGpu:
    """The backend given a case's tensors on the GPU; what comes out is here again."""

    @staticmethod
    def forward(spec, x, state, weights, masks):
        def there(value):
            if isinstance(value, tuple):
                return tuple(map(there, value))
            return None if value is None else value.cuda()

        per_unit = {name: there(value) for name, value in weights.per_unit.items()}
        outcome = triton.forward(
            replace(spec, device=torch.device("cuda")),
            there(x),
            there(state),
            Weights(*map(there, weights[:7]), per_unit),
            type(masks)(*map(there, masks)),
        )
        state = tuple(s.cpu() for s in outcome.state)
        return replace(outcome, output=outcome.output.cpu(), state=state)


def check(given):
    assert triton.supports(replace(given.spec, device=torch.device("cuda"))) is None
    found, expected = given.gradients(OnGpu), given.in_double().gradients(reference)
    # an ill-conditioned case may be off by twice what torch's own operations in this type are; near a
    # kink, where a gradient jumps, by twice what a rounding of all that is given makes
    beside = []
    if given.dtype != torch.float32:
        ops = {node.op for node in topological(given.spec.cell.values.values())}
        nearby = [given.nearby(seed) for seed in range(4) if ops & KINKED]
        beside = [run.gradients(reference) for run in (given, *nearby)]
    assert_within(found, expected, TOLERANCE[given.dtype], beside, most=0.25)


def options(cell):
    norm = uses_every_part(cell) and not cell.second_stage
    every = dict(ALL, layer_norm=norm, lengths=LENGTHS)
    yield {}
    yield dict(every, reverse=True, zoneout=(1, 5))
    if cell.name in PROJECTABLE:
        yield dict(every, P=60)


@pytest.mark.parametrize(("units", "dtype"), [(20, torch.float32), (150, torch.bfloat16)])
@pytest.mark.parametrize(
    ("cell", "given"),
    [
        pytest.param(cell, given, id=f"{cell.name}-{'-'.join(given) or 'plain'}")
        for cell in EVERY.values()
        for given in options(cell)
    ],
)
def test_every_cell(cell, given, units, dtype):
    check(case(cell, **dict(T=9, B=5, inputs=3, H=units, dtype=dtype) | given))


@pytest.mark.pairwise
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(
    "sizes",
    [(1, 1, 1), (7, 33, 65), (5, 70, 520), (3, 17, 1030), (3, 80, 1536), (2, 200, 1024)],
)
@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_sizes(name, sizes, dtype):
    T, B, H = sizes
    check(case(CELLS[name], T=T, B=B, inputs=3, H=H, dtype=dtype))


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("lstm", dict(ALL, P=300, lengths=LENGTHS)),
        ("gru_2014", dict(reset=True, recurrent_dropout=True, lengths=LENGTHS, reverse=True)),
        ("both_fed_back", dict(recurrent_dropout=True, P=400)),
        ("peephole", dict(layer_norm=True, zoneout=True, lengths=LENGTHS)),
        # large tiles, one launch after the other, the longest sequences first
        ("lstm", dict(T=3, B=600, H=300, lengths=[b % 4 for b in range(600)])),
        ("gru", dict(T=3, B=600, H=768, lengths=[b % 4 for b in range(600)])),
    ],
)
def test_many_units_with_options(name, given):
    check(case(EVERY[name], **dict(T=9, B=5, inputs=3, H=520, dtype=torch.bfloat16) | given))


def test_the_same_bits_again():
    given = case(CELLS["lstm"], T=50, B=40, inputs=8, H=304, dtype=torch.bfloat16)
    first = given.gradients(OnGpu)
    for _ in range(20):
        again = given.gradients(OnGpu)
        for a, b in zip(
            (*first[0], *first[1].values()), (*again[0], *again[1].values()), strict=True
        ):
            assert torch.equal(a, b)


def test_more_steps_than_a_grid_has_places():
    layer = gw.LSTM(2, 20, backend="triton").cuda()
    x = torch.randn(70_000, 1, 2, device="cuda")
    with torch.no_grad():
        whole, (h, _) = layer(x)
        _, state = layer(x[:69_990])
        last, _ = layer(x[69_990:], state)
    torch.testing.assert_close(whole[69_990:], last)
    assert torch.equal(whole[-1], h[0])


def layer_and_input(cls=gw.LSTM, **named):
    torch.manual_seed(0)
    return cls(8, 70, num_layers=2, backend="triton", **named).cuda(), torch.randn(
        9, 5, 8, device="cuda"
    )


@pytest.mark.parametrize("cls", [gw.LSTM, gw.GRU])
def test_a_layer_equals_torchs(cls, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    ours, x = layer_and_input(cls, bidirectional=True)
    theirs = getattr(torch.nn, cls.__name__)(8, 70, num_layers=2, bidirectional=True).cuda()
    theirs.load_state_dict(ours.state_dict())
    torch.testing.assert_close(ours(x)[0], theirs(x)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(
    tuple(map(int, torch.__version__.split(".")[:2])) < (2, 13),
    reason="torch 2.11's compiler stops at a layer whose cell is not a constant to it",
)
def test_under_compile():
    layer, x = layer_and_input()
    x.requires_grad_()
    expected = torch.autograd.grad(layer(x)[0].sum(), [x, *layer.parameters()])
    compiled = torch.compile(layer, fullgraph=True)
    found = torch.autograd.grad(compiled(x)[0].sum(), [x, *layer.parameters()])
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    lengths = torch.tensor(LENGTHS)
    torch.testing.assert_close(compiled(x, lengths=lengths)[0], layer(x, lengths=lengths)[0])


def test_in_a_cuda_graph():
    """Captured once, then replayed on other numbers, twice: without what the host does for a call."""
    torch.manual_seed(0)
    layer = gw.LSTM(8, 70, num_layers=2, backend="triton", dtype=torch.bfloat16).cuda()
    x = torch.randn(9, 5, 8, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    leaves = [x, *layer.parameters()]

    def step():
        output = layer(x)[0]
        return output, *torch.autograd.grad(output.float().square().sum(), leaves)

    beside = torch.cuda.Stream()
    beside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(beside):  # compiles, and allocates what stays
        step()
    torch.cuda.current_stream().wait_stream(beside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    for _ in range(2):
        with torch.no_grad():
            x.copy_(torch.randn_like(x))
        graph.replay()
        for found, expected in zip(captured, step(), strict=True):
            assert torch.equal(found, expected)


def test_autocast():
    layer, x = layer_and_input()
    with torch.autocast("cuda", torch.bfloat16):
        output = layer(x)[0]
        output.float().square().sum().backward()
    assert output.dtype == torch.bfloat16
    assert layer.weight_hh_l0.grad.dtype == torch.float32


def test_a_second_derivative():
    layer, x = layer_and_input()
    x.requires_grad_()
    (first,) = torch.autograd.grad(layer(x)[0].square().sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), x)
    layer.backend = "reference"
    (first,) = torch.autograd.grad(layer(x)[0].square().sum(), x, create_graph=True)
    (expected,) = torch.autograd.grad(first.square().sum(), x)
    torch.testing.assert_close(second, expected, rtol=1e-3, atol=1e-3)


def test_a_gradient_in_eval_mode():
    """Which cuDNN refuses: integrated gradients need it."""
    layer, x = layer_and_input()
    layer.eval()
    x.requires_grad_()
    layer(x)[0].sum().backward()
    assert x.grad.abs().sum() > 0


def test_auto_says_what_it_took():
    layer = gw.Recurrent("peephole", 8, 70).cuda()
    x = torch.randn(9, 5, 8, device="cuda")
    assert layer.explain_backend(x).startswith("triton: gatewise's kernels, peephole")
    assert gw.LSTM(8, 70, dtype=torch.float64).cuda().explain_backend(x.double()).startswith("aten")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_training_whatever_auto_takes(dtype):
    for batch in (5, 600):
        layer = gw.LSTM(8, 64, dtype=dtype).cuda()
        x = torch.randn(9, batch, 8, device="cuda", dtype=dtype, requires_grad=True)
        layer(x)[0].sum().backward()
        assert x.grad.abs().sum() > 0
        assert layer.weight_hh_l0.grad.abs().sum() > 0


def test_weights_as_cudnn_itself_lays_them_out():
    for options in (dict(), dict(proj_size=3), dict(num_layers=2, bidirectional=True, proj_size=3)):
        theirs = torch.nn.LSTM(4, 6, **options).cuda()
        theirs.flatten_parameters()
        flat = torch.empty(0, device="cuda").set_(theirs.weight_ih_l0.untyped_storage())
        total = sum(p.numel() for p in theirs.parameters())
        layer = gw.from_cudnn(flat[:total].cpu().numpy(), "LSTM", 4, 6, **options)
        for name, value in theirs.state_dict().items():
            torch.testing.assert_close(layer.state_dict()[name].cpu(), value.cpu(), msg=name)
