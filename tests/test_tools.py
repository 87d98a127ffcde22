"""Tools that people use on torch's layers: attribution, privacy, and training over processes."""

import multiprocessing
import socket

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, vmap

import gatewise as gw

LAYERS = {
    "LSTM": lambda of: of.LSTM(3, 6, 2, batch_first=True, bidirectional=True),
    "GRU": lambda of: of.GRU(3, 6, batch_first=True),
    "RNN": lambda of: of.RNN(3, 6, batch_first=True),
}


class Classifier(nn.Module):
    """Two classes from the mean of a layer's outputs."""

    def __init__(self, rnn):
        super().__init__()
        self.rnn = rnn
        self.head = nn.Linear(6 * (1 + rnn.bidirectional), 2)

    def forward(self, x):
        return self.head(self.rnn(x)[0].mean(-2))


def classifier(make, of=gw):
    torch.manual_seed(2)
    return Classifier(make(of))


def both(make):
    theirs, ours = classifier(make, nn), classifier(make)
    ours.load_state_dict(theirs.state_dict())
    return theirs.eval(), ours.eval()


@pytest.mark.parametrize(
    "make", [*LAYERS.values(), lambda of: gw.Recurrent("peephole", 3, 6, batch_first=True)]
)
def test_integrated_gradients_add_up(make):
    """Sundararajan et al. 2017: what the features are given adds up to the change of the output."""
    attr = pytest.importorskip("captum.attr")
    model, x = classifier(make).eval(), torch.randn(4, 9, 3)
    found, delta = attr.IntegratedGradients(model).attribute(
        x, target=1, n_steps=200, return_convergence_delta=True
    )
    change = (model(x) - model(torch.zeros_like(x)))[:, 1]
    torch.testing.assert_close(found.sum((1, 2)), change, rtol=1e-2, atol=1e-3)
    assert delta.abs().max() < 1e-2
    assert found.abs().max() > 1e-3


@pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already require gradients")
@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
def test_attributions_are_those_of_torchs_layer(make):
    attr = pytest.importorskip("captum.attr")
    theirs, ours = both(make)
    x = torch.randn(4, 9, 3)
    for method, options in [
        (attr.IntegratedGradients, {}),
        (attr.Saliency, {}),
        (attr.InputXGradient, {}),
        (attr.FeatureAblation, {}),
        (attr.GradientShap, dict(baselines=torch.zeros(2, 9, 3))),
    ]:
        found = []
        for model in theirs, ours:
            torch.manual_seed(3)
            np.random.seed(3)  # captum draws from it
            found.append(method(model).attribute(x, target=0, **options))
        torch.testing.assert_close(*found, rtol=1e-4, atol=1e-6)
    layer = [attr.LayerActivation(m, m.head).attribute(x) for m in (theirs, ours)]
    torch.testing.assert_close(*layer, rtol=1e-5, atol=1e-6)


def per_sample(model, x, labels):
    """Each sample's gradient of the loss, by parameter."""
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def loss(parameters, x, label):
        output = functional_call(model, parameters, (x[None],))
        return nn.functional.cross_entropy(output, label[None])

    return vmap(grad(loss), in_dims=(None, 0, 0))(parameters, x, labels)


@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
def test_per_sample_gradients_are_a_loops(make):
    model = classifier(make)
    x, labels = torch.randn(5, 9, 3), torch.tensor([0, 1, 1, 0, 1])
    found = per_sample(model, x, labels)
    for k in range(5):
        one = nn.functional.cross_entropy(model(x[k, None]), labels[k, None])
        alone = torch.autograd.grad(one, list(model.parameters()))
        for (name, gradients), expected in zip(found.items(), alone, strict=True):
            torch.testing.assert_close(gradients[k], expected, rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.filterwarnings("ignore")  # theirs: of a generator that is not for cryptography
def test_opacus_trains_with_privacy():
    """Opacus's own hooks take modules that return one tensor, torch's LSTM as little as ours; with the
    gradients of torch.func its optimizer clips and adds noise."""
    opacus = pytest.importorskip("opacus")
    model = classifier(LAYERS["LSTM"])
    data = torch.utils.data.TensorDataset(torch.randn(16, 9, 3), torch.randint(2, (16,)))
    model, optimizer, loader = opacus.PrivacyEngine().make_private(
        module=model,
        optimizer=torch.optim.SGD(model.parameters(), 0.1),
        data_loader=torch.utils.data.DataLoader(data, batch_size=8),
        noise_multiplier=0.0,
        max_grad_norm=0.01,
        poisson_sampling=False,
        grad_sample_mode="no_op",
    )
    x, labels = next(iter(loader))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    found = per_sample(model, x, labels)
    for name, p in model.named_parameters():
        p.grad_sample = found[name]
    optimizer.step()
    norms = sum(g.flatten(1).square().sum(1) for g in found.values()).sqrt()
    assert norms.min() > 0.01  # all are clipped
    for name, p in model.named_parameters():
        clipped = found[name] * (0.01 / norms).view(-1, *[1] * (found[name].dim() - 1))
        torch.testing.assert_close(before[name] - p, 0.1 * clipped.mean(0), rtol=1e-3, atol=1e-7)


def test_hooks_see_the_layer_and_its_parameters():
    model, seen = classifier(LAYERS["GRU"]), {}
    model.rnn.register_forward_hook(lambda m, given, result: seen.update(input=given[0]))
    model.rnn.register_full_backward_hook(lambda m, to, of: seen.update(gradient=of[0]))
    for name, p in model.rnn.named_parameters():
        p.register_hook(lambda g, name=name: seen.update({name: g}))
        p.register_post_accumulate_grad_hook(lambda p, name=name: seen.update({f"{name} after": p}))
    x = torch.randn(4, 9, 3, requires_grad=True)
    model(x).sum().backward()
    assert torch.equal(seen["input"], x)
    assert seen["gradient"].shape == (4, 9, 6)
    for name, p in model.rnn.named_parameters():
        torch.testing.assert_close(seen[name], p.grad)
        assert seen[f"{name} after"] is p


def _train_one_of_two(rank, port, results):
    """A process of two: half the batch, gradients averaged by DDP."""
    torch.set_num_threads(1)
    store = torch.distributed.TCPStore("127.0.0.1", port, 2, rank == 0)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    model = torch.nn.parallel.DistributedDataParallel(classifier(LAYERS["LSTM"]))
    torch.manual_seed(7)
    x, labels = torch.randn(6, 9, 3), torch.randint(2, (6,))
    nn.functional.cross_entropy(model(x[rank::2]), labels[rank::2]).backward()
    results.put((rank, [p.grad.numpy() for p in model.module.parameters()]))
    torch.distributed.destroy_process_group()


def test_distributed_data_parallel():
    context, port = multiprocessing.get_context("spawn"), free_port()
    results = context.Queue()
    workers = [context.Process(target=_train_one_of_two, args=(k, port, results)) for k in range(2)]
    for worker in workers:
        worker.start()
    found = dict(results.get(timeout=120) for _ in workers)
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    model = classifier(LAYERS["LSTM"])
    torch.manual_seed(7)
    x, labels = torch.randn(6, 9, 3), torch.randint(2, (6,))
    nn.functional.cross_entropy(model(x), labels).backward()
    for p, *each in zip(model.parameters(), found[0], found[1], strict=True):
        for gradient in each:
            torch.testing.assert_close(torch.from_numpy(gradient), p.grad, rtol=1e-4, atol=1e-6)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]
