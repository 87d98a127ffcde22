"""`gatewise bench`: what it prints and writes, and that a wrong peer is not timed."""

from __future__ import annotations

import json
import math
import os
from functools import partial

import pytest
import torch

import gatewise as gw
from cells import OWN_CELLS
from gatewise.bench import peers
from gatewise.bench.contenders import Apart, Here
from gatewise.bench.loops import Loop
from gatewise.bench.peers import PEERS, Peer
from gatewise.bench.problem import (
    Prepared,
    disagreement,
    draw,
    expected,
    gatewise_layer,
    prepared,
    torch_layer,
)
from gatewise.bench.run import Plan, run, torch_threads
from gatewise.bench.shapes import DEFAULT, Shape, flop, parse
from gatewise.bench.table import Printer, closing
from gatewise.bench.timing import Budget, Turn, gemm_gflops, geometric_mean, interleave
from gatewise.cells.catalogue import CELLS
from gatewise.cli import main
from gatewise.errors import BackendError, OptionError

pytestmark = pytest.mark.usefixtures("one_thread")

LSTM = CELLS["lstm"]
TINY = Shape(3, 2, 4, 5)


@gw.cell(gates="f n", state="h c", params="rate", feedback="h c")
def odd(a, s, p):
    """Uses what no built-in cell does: gate parts beside whole gates, two states fed back."""
    f = gw.sigmoid(a.f) * gw.exp(-gw.maximum(p.rate, 0.5))
    n = gw.minimum(0.7, a.n.x + f * a.n.h) + gw.softplus(gw.detach(s.c)) / 3
    return dict(c=f * s.c + n, h=s.h * gw.greater(n, 0) + gw.maximum(n, s.c))


@gw.cell(gates="n")
def late_alone(a, s):
    """No gate is fed with what was before the step."""
    return dict(h=gw.tanh(a.n.recurrent(0.5 * s.h)))


def plan(**options):
    fast = dict(shapes=(TINY,), peers=("torch",), budget=Budget(rounds=2), gemm_size=32, threads=1)
    return Plan(**{**fast, **options})


def printed(planned):
    lines: list[str] = []
    report = run(planned, Printer(planned.dtype, planned.threads, lines.append))
    return report, "\n".join([*lines, closing(report)])


def test_flop_counts_the_products():
    assert flop(LSTM, Shape(100, 32, 128, 128), "inference") == 2 * 100 * 32 * 512 * 256
    assert flop(CELLS["gru"], TINY, "training") == 3 * 2 * 3 * 2 * 15 * 9
    assert flop(odd, TINY, "inference") == 2 * 3 * 2 * 10 * (4 + 10)


def test_means_and_rates():
    assert geometric_mean([2.0, 8.0]) == pytest.approx(4.0)
    assert math.isnan(geometric_mean([]))
    assert gemm_gflops([10.0, 1.0, 1000.0], size=100) == pytest.approx(2e6 / 1e7)


def test_the_run_holds_every_row():
    report, text = printed(plan(shapes=(TINY, Shape(1, 1, 2, 3)), cells=(LSTM, CELLS["gru"])))
    assert [(r["cell"], r["mode"]) for r in report["rows"][::2]] == [
        (cell, mode) for cell in ("lstm", "gru") for mode in ("inference", "training")
    ]
    row = report["rows"][0]
    assert row["shape"] == dict(T=3, B=2, I=4, H=5)
    torch_ms, ours_ms = (row["contenders"][n]["median_ms"] for n in ("torch", row["ours"]))
    assert row["times_torch"] == row["times_best"] == pytest.approx(torch_ms / ours_ms)
    assert row["gflops"] == pytest.approx(row["flop"] / ours_ms / 1e6)
    assert row["gemm_share"] == pytest.approx(row["gflops"] / row["gemm_gflops"])
    timing = row["contenders"]["torch"]
    assert timing["rounds"] == 2
    assert timing["calls"] >= 2
    assert timing["min_ms"] <= timing["q1_ms"] <= timing["median_ms"] <= timing["q3_ms"]
    ratios = [r["times_torch"] for r in report["rows"][:2]]
    assert report["means"][0]["times_torch"] == pytest.approx(math.sqrt(ratios[0] * ratios[1]))
    assert report["machine"]["versions"]["torch"] == torch.__version__
    for said in ("lstm, inference, float32, 1 thread", "gru, training", "\n3,2,4,5 ", "1,1,2,3 "):
        assert said in text
    assert text.count("geometric mean") == 4


def test_ours_without_peers():
    report, text = printed(plan(peers=(), modes=("inference",)))
    assert report["rows"][0]["best_peer"] is None
    assert report["rows"][0]["gflops"] > 0
    assert report["means"][0]["times_best"] is None
    assert "–" in text


def test_a_cell_that_torch_lacks():
    report, text = printed(plan(cells=(odd,), peers=("torch", "loop")))
    assert {name for row in report["rows"] for name in row["contenders"]} >= {"loop"}
    assert all("torch" not in row["contenders"] for row in report["rows"])
    assert "torch has no cell 'odd'" in text


@pytest.mark.parametrize("mode", ["inference", "training"])
@pytest.mark.parametrize(
    "cell", [*CELLS.values(), odd, late_alone, *OWN_CELLS.values()], ids=lambda cell: cell.name
)
def test_the_loop_is_the_cell(cell, mode):
    problem = draw(cell, TINY, mode)
    assert (
        disagreement(expected(problem), prepared(Loop(problem), problem).results(), "float32")
        is None
    )


def test_the_onnx_and_keras_gates_are_theirs():
    problem = draw(LSTM, TINY, "inference")
    i, f, g, o = problem.weights["weight_ih_l0"].reshape(4, 5, 4)
    onnx = peers._reordered(problem, peers._ONNX_GATES)[0].reshape(4, 5, 4)
    assert all((a == b).all() for a, b in zip(onnx, (i, o, f, g), strict=True))
    problem = draw(CELLS["gru"], TINY, "inference")
    r, z, n = problem.weights["bias_hh_l0"].reshape(3, 5)
    for gates in (peers._ONNX_GATES, peers._KERAS_GATES):
        assert (peers._reordered(problem, gates)[3].reshape(3, 5) == [z, r, n]).all()


def wrong_output(problem, threads):
    return Prepared(
        lambda: None, lambda: {**expected(problem), "output": expected(problem)["output"] * 1.001}
    )


def wrong_gradient(problem, threads):
    found = expected(problem)
    return Prepared(lambda: None, lambda: {**found, "input gradient": -found["input gradient"]})


def not_a_number(problem, threads):
    found = expected(problem)
    return Prepared(lambda: None, lambda: {name: value * math.nan for name, value in found.items()})


def raises(problem, threads):
    raise ZeroDivisionError("what a peer may do\nand more of it")


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (wrong_output, "gives an output that is off by 1.0e-03"),
        (wrong_gradient, "gives an input gradient that is off by 2.0e+00"),
        (not_a_number, "gives an output that is off by nan"),
        (raises, "raised ZeroDivisionError: what a peer may do (lstm training 3,2,4,5)"),
    ],
)
def test_a_wrong_peer_is_named_and_not_timed(monkeypatch, build, said):
    monkeypatch.setitem(PEERS, "wrong", Peer(build, apart=False))
    report, text = printed(plan(peers=("torch", "wrong"), modes=("training",)))
    row = report["rows"][0]
    assert "wrong" not in row["contenders"]
    assert row["best_peer"] == "torch"
    assert f"wrong {said}" in text
    assert "failed" in text
    assert row["failed"].keys() == {"wrong"}


def test_disagreement_of_shapes_and_names():
    problem = draw(LSTM, TINY, "inference")
    right = expected(problem)
    assert disagreement(right, prepared(torch_layer(problem), problem).results(), "float32") is None
    turned = {"output": right["output"].swapaxes(0, 1)}
    assert (
        disagreement(right, turned, "float32")
        == "gives an output of shape (2, 3, 5), expected (3, 2, 5)"
    )
    assert disagreement(right, {}, "float32") == "gives no output"


def test_bfloat16_is_close_to_float32():
    problem = draw(LSTM, TINY, "training", "bfloat16")
    right, found = expected(problem), prepared(gatewise_layer(problem), problem).results()
    assert disagreement(right, found, "bfloat16") is None
    assert disagreement(right, found, "float32") is not None


def test_missing_peers_are_said(monkeypatch):
    monkeypatch.setitem(PEERS, "absent", Peer(raises, ("no_such_module",)))
    report, text = printed(plan(peers=("torch", "absent"), modes=("inference",)))
    assert "absent is not installed: pip install no_such_module, or 'gatewise[bench]'" in text
    assert "absent" not in report["rows"][0]["contenders"]


def test_all_take_turns_until_one_gives_up():
    taken: list[str] = []

    def turns(name, last=math.inf):
        def take(calls, prime):
            taken.append(name)
            if taken.count(name) > last:
                raise BackendError("died")
            return Turn([2_000_000] * calls, slept=True)

        return take

    timings, lost = interleave({"a": turns("a"), "b": turns("b", last=4)}, Budget(rounds=10))
    assert lost == {"b": "died"}
    assert timings.keys() == {"a"}
    assert timings["a"].rounds == 10
    assert timings["a"].median == pytest.approx(2.0)
    assert {*taken[4:6]} == {*taken[6:8]} == {"a", "b"}  # after two turns each to warm up


def test_the_budget():
    assert not Budget(seconds=1, least=5).spent(4, 100)
    assert Budget(seconds=1, least=5).spent(5, 1)
    assert Budget(rounds=3).spent(3, 0)
    assert not Budget(rounds=3).spent(2, 100)


def test_a_process_of_its_own_does_the_same_and_may_die():
    problem = draw(LSTM, TINY, "training")
    apart, here = Apart("torch", 1), Here(peers.builder("torch", 1))
    try:
        assert disagreement(here.prepare(problem), apart.prepare(problem), "float32") is None
        assert len(apart.turn(3, True).nanoseconds) == 3
        with pytest.raises(BackendError, match="raised KeyError"):
            apart.prepare(draw(odd, TINY, "training"))
        apart._process.kill()
        with pytest.raises(BackendError, match=r"died \(exit code -9\)"):
            apart.turn(1, False)
    finally:
        apart.close()


def test_more_threads_than_cores_are_said():
    most = 4 * os.cpu_count()
    report, _ = printed(plan(peers=(), modes=("inference",), threads=most))
    assert f"{most} threads on" in report["notes"][0]


def test_threads_are_torch_s_and_put_back():
    with torch_threads(2) as threads:
        assert threads == torch.get_num_threads() == 2
    assert torch.get_num_threads() == 1


def test_the_default_shapes_are_ten():
    assert len(set(DEFAULT)) == 10
    assert parse("1000,16,128,128") == DEFAULT[-1]
    assert str(parse("1, 2, 3, 4")) == "1,2,3,4"


def test_the_verb(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("gatewise.bench.options.Plan", partial(Plan, gemm_size=32))
    out = tmp_path / "figures.json"
    tiny = ["--shapes", "2,1,2,3", "1,1,1,1", "--repeats", "1", "--peers", "torch"]
    assert main(["bench", *tiny, "--cells", "gru,lstm", "--threads", "1", "--json", str(out)]) == 0
    text = capsys.readouterr().out
    assert "gru, inference" in text
    assert text.index("gru, inference") < text.index("lstm, inference")
    report = json.loads(out.read_text())
    assert report["settings"]["rounds"] == 1
    assert len(report["rows"]) == 4


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--cells", "lstn"], "no cell 'lstn' (did you mean 'lstm'?)"),
        (["--peers", "torch,onnx-runtime"], "no peer 'onnx-runtime' (did you mean 'onnxruntime'?)"),
        (["--backends", "reverence"], "no backend 'reverence' (did you mean 'reference'?)"),
        (["--mode", "infer"], "no mode 'infer'"),
        (["--shapes", "100,32,128"], "not '100,32,128'"),
        (["--shapes", "1,1,1,1", "1,0,1,1"], "not '1,0,1,1'"),
        (["--shapes", "1,1,1,x"], "a shape is T,B,I,H"),
        (["--threads", "0"], "threads must be an integer from 1 to"),
        (["--repeats", "0"], "repeats must be a positive integer, not 0"),
        (["--seconds", "-1"], "seconds must be a number above 0, not -1.0"),
        (["--seconds", "nan"], "seconds must be a number above 0, not nan"),
        (["--json", "/no/such/folder/x.json"], "cannot write /no/such/folder/x.json: No such file"),
        (["--json", "/"], "cannot write /: Is a directory"),
    ],
)
def test_what_cannot_be_used_is_said_at_once(capsys, given, said):
    assert main(["bench", *given]) == 2
    written = capsys.readouterr()
    assert said in written.err
    assert not written.out


def test_a_plan_checks_itself():
    with pytest.raises(OptionError, match="threads"):
        Plan(threads=-1)
