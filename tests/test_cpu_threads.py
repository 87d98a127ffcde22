"""The kernels' thread pool from Python: after a fork, under several threads, with any number of its own."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch

import gatewise as gw
from cases import case
from gatewise import CELLS
from gatewise.backends import cpu
from gatewise.errors import ShapeError

# One whose rows are shared among threads, and one whose units are, at a meeting each step. Small
# enough for torch to fill and compare on one thread: its own pool (OpenMP's) hangs after a fork.
SHARED = {
    "by rows": dict(T=11, B=13, inputs=20, H=65, lengths=(11, 3) + (7,) * 11),
    "by units": dict(T=30, B=1, inputs=33, H=80),
}


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def cases():
    return [
        case(CELLS[name], **sizes, zoneout=True, dtype=torch.float32)
        for name in ("lstm", "gru")
        for sizes in SHARED.values()
    ]


def same(found, expected):
    (out, grads), (true_out, true_grads) = found, expected
    return all(map(torch.equal, out, true_out)) and all(
        torch.equal(grads[name], true_grads[name]) for name in true_grads
    )


def ended(child, seconds):
    """The exit status of a child process, killed if it hangs."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    raise AssertionError("the child hangs")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.usefixtures("two_threads")
def test_right_in_a_child_of_a_process_that_used_the_pool():
    """As a data loader's workers are, and theirs in turn."""
    given = cases()
    expected = [g.gradients(cpu) for g in given]
    for _ in range(3):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                right = all(same(g.gradients(cpu), e) for g, e in zip(given, expected, strict=True))
                grandchild = os.fork()
                if grandchild == 0:
                    os._exit(not same(given[0].gradients(cpu), expected[0]))
                status = not (right and ended(grandchild, 60) == 0)
            finally:
                os._exit(status)
        assert ended(child, 120) == 0
        assert all(same(g.gradients(cpu), e) for g, e in zip(given, expected, strict=True))


# The child of a process whose torch has used its threads, but whose core is not loaded yet.
FIRST_USED_IN_A_CHILD = """
import os, signal, torch
import gatewise as gw
torch.set_num_threads(2)
torch.ones(2000, 2000) @ torch.ones(2000, 2000)
torch.ones(4_000_000).sin_()
layer, x = gw.LSTM(64, 64), torch.zeros(50, 16, 64)
child = os.fork()
if child == 0:
    signal.alarm(60)
    with torch.no_grad():
        layer(x)
    os._exit(0)
raise SystemExit(os.waitpid(child, 0)[1])
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_first_used_in_a_child():
    call = [sys.executable, "-W", "ignore", "-c", FIRST_USED_IN_A_CHILD]
    assert subprocess.run(call, timeout=120).returncode == 0


def test_weights_on_no_device_are_not_read():
    layer = gw.LSTM(3, 4, num_layers=2)
    layer.weight_hh_l1 = torch.nn.Parameter(torch.empty(16, 4, device="meta"))
    with torch.no_grad(), pytest.raises(ShapeError, match="weight_hh_l1 is on 'meta'"):
        layer(torch.zeros(5, 2, 3))


@pytest.mark.usefixtures("two_threads")
def test_weights_replaced_while_another_thread_runs():
    layer, x = gw.LSTM(32, 32), torch.randn(200, 4, 32)
    kept = [{n: torch.randn_like(p) / 4 for n, p in layer.named_parameters()} for _ in range(2)]
    stop = threading.Event()

    def replace():
        while not stop.is_set():
            for weights in kept:
                fresh = {n: w.clone() for n, w in weights.items()}
                layer.load_state_dict(fresh, assign=True)

    other = threading.Thread(target=replace)
    other.start()
    try:
        with torch.no_grad():
            assert all(layer(x)[0].isfinite().all() for _ in range(200))
    finally:
        stop.set()
        other.join(60)


@pytest.mark.usefixtures("two_threads")
def test_right_in_several_threads_at_once():
    """One has the pool and the others run alone: with the same bits."""
    given = cases()
    expected = [g.gradients(cpu) for g in given]
    wrong = []

    def work(first):
        for k in range(24):
            at = (first + k) % len(given)
            try:
                if not same(given[at].gradients(cpu), expected[at]):
                    wrong.append(at)
            except BaseException as error:
                wrong.append(error)
                raise

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
    assert not wrong


@pytest.mark.parametrize("options", [{}, {"zoneout": 0.1}], ids=str)
@pytest.mark.parametrize(("forward", "backward"), [(1, 2), (2, 1), (2, 3)])
def test_the_number_of_threads_may_change_before_the_backward_pass(forward, backward, options):
    """It belongs to a thread of the program, so the backward pass of another one has another."""
    torch.manual_seed(0)
    layer = gw.LSTM(24, 40, **options).eval()
    x = torch.randn(50, 8, 24, requires_grad=True)
    lengths = torch.tensor([50, 3, 40, 7, 20, 50, 11, 30])

    def gradients(first, then):
        torch.set_num_threads(first)
        output, _ = layer(x, lengths=lengths)
        torch.set_num_threads(then)
        loss = (output * torch.arange(8.0)[:, None]).sum()
        return torch.autograd.grad(loss, [x, *layer.parameters()])

    before = torch.get_num_threads()
    try:
        expected = gradients(1, 1)
        found = gradients(forward, backward)
    finally:
        torch.set_num_threads(before)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5 * float(b.abs().max()))


@pytest.mark.parametrize("count", [3, 7])
def test_more_threads_than_cores_or_rows(count):
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        for given in cases():
            many = given.gradients(cpu)
            assert same(given.gradients(cpu), many)
            torch.set_num_threads(1)
            alone = given.gradients(cpu)
            torch.set_num_threads(count)
            torch.testing.assert_close(many, alone, rtol=1e-4, atol=1e-5)
    finally:
        torch.set_num_threads(before)
