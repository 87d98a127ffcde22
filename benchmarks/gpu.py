"""The kernels on a GPU: right at full size, free of races, and how fast beside cuDNN and torch.compile.

    python benchmarks/gpu.py [--workers 12] [--out benchmarks/results/gpu.json] [--only times]

One command, under ten minutes. Kernels are first compiled, by several processes side by side. Times are
of whole calls of the modules, by events, taken by turns; medians. Ends with a short table; the JSON has
every row.
"""

from __future__ import annotations

import argparse
import copy
import json
import multiprocessing
import shutil
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

import gatewise as gw
from gatewise.bench.machine import describe

warnings.filterwarnings("ignore", message="RNN module weights are not part of single contiguous")

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32, "fp16": torch.float16}
CUDNN = {"LSTM": nn.LSTM, "GRU": nn.GRU}
ROUNDS = 15


@dataclass(frozen=True)
class Row:
    cell: str  # LSTM, GRU, peephole or "LSTM, normalised"
    dtype: str
    T: int
    B: int
    H: int

    def __str__(self) -> str:
        return f"{self.cell} {self.dtype} T {self.T} B {self.B} H {self.H}"

    def layer(self, **named: Any) -> nn.Module:
        named |= dict(device="cuda", dtype=DTYPES[self.dtype])
        torch.manual_seed(0)
        if self.cell == "peephole":
            return gw.Recurrent("peephole", self.H, self.H, **named)
        if self.cell == "LSTM, normalised":
            return gw.LSTM(self.H, self.H, layer_norm=True, **named)
        return getattr(gw, self.cell)(self.H, self.H, **named)

    def cudnn(self) -> nn.Module:
        theirs = CUDNN[self.cell](self.H, self.H).to("cuda", DTYPES[self.dtype])
        theirs.flatten_parameters()
        return theirs

    def input(self) -> Tensor:
        generator = torch.Generator("cuda").manual_seed(1)
        shape = (self.T, self.B, self.H)
        return torch.randn(shape, generator=generator, device="cuda", dtype=DTYPES[self.dtype])


def timed_rows() -> Iterator[Row]:
    sizes = (64, 128, 256, 512, 768, 1024, 1536)
    for cell in CUDNN:
        for H in sizes:
            yield from (Row(cell, "bf16", 256, B, H) for B in (1, 16, 64, 256))
        for H in (256, 1024):
            yield from (Row(cell, "bf16", 1024, B, H) for B in (16, 64))
        for H in (64, 256, 1024):
            yield from (Row(cell, "fp32", 256, B, H) for B in (16, 64))
        yield from (Row(cell, "bf16", T, 16, 256) for T in (1, 8, 16, 32))
    for cell in ("peephole", "LSTM, normalised"):
        for H in (64, 256, 512, 1024):
            yield from (Row(cell, "bf16", 256, B, H) for B in (16, 64))


# Calls ---------------------------------------------------------------------------------------------


def inference(layer: nn.Module, x: Tensor | PackedSequence, **named: Any) -> Callable[[], Any]:
    layer = copy.deepcopy(layer).eval()  # in training mode cuDNN keeps what a way back would need

    def call() -> Any:
        with torch.no_grad():
            return layer(x, **named)

    return call


def training(layer: nn.Module, x: Tensor, **named: Any) -> Callable[[], Any]:
    given = x.clone().requires_grad_()
    leaves = [given, *layer.parameters()]
    generator = torch.Generator("cuda").manual_seed(2)
    seed = torch.randn(layer(given, **named)[0].shape, generator=generator, device="cuda").to(
        x.dtype
    )

    def call() -> Any:
        return torch.autograd.grad(layer(given, **named)[0], leaves, seed)

    return call


MODES = {"inference": inference, "training": training}


def on_the_gpu(call: Callable[[], Any]) -> float:
    """Milliseconds by events."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)


def on_the_host(call: Callable[[], Any]) -> float:
    """Milliseconds until the call returns, whatever the GPU is still at."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    return 1e3 * (time.perf_counter() - start)


def milliseconds(
    calls: dict[str, Callable[[], Any]], taken: Callable[[Callable[[], Any]], float] = on_the_gpu
) -> dict[str, float]:
    """Each call's median, taken by turns."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(ROUNDS):
        for name, call in calls.items():
            found[name].append(taken(call))
    return {name: statistics.median(times) for name, times in found.items()}


# Compiling -----------------------------------------------------------------------------------------


def compile_kernels(row: Row) -> str | None:
    try:
        layer, x = row.layer(backend="triton"), row.input()
        for mode in MODES.values():
            mode(layer, x)()
        torch.cuda.synchronize()
    except Exception as error:
        return f"{row}: {error!r}"[:300]
    return None


def compile_all(rows: list[Row], workers: int) -> list[str]:
    """Every kernel that the rows need; what could not be compiled or run."""
    largest_first = sorted(set(rows), key=lambda row: -row.H)
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        return [told for told in pool.imap_unordered(compile_kernels, largest_first) if told]


# Sections ------------------------------------------------------------------------------------------


def checked_rows() -> Iterator[Row]:
    for cell in ("LSTM", "GRU", "peephole", "LSTM, normalised"):
        for H, B in ((64, 16), (512, 16), (1024, 64)):
            yield from (Row(cell, dtype, 64, B, H) for dtype in DTYPES)


def right() -> dict[str, Any]:
    """‖found - reference‖ / ‖reference‖ of outputs and gradients, the reference in float64."""
    return {str(row): worst_error(row) for row in checked_rows()}


def worst_error(row: Row) -> dict[str, float]:
    layer, x = row.layer(backend="triton"), row.input()
    exact = row.layer(backend="reference").double()
    exact.load_state_dict(layer.state_dict())
    results = []
    for module, given in ((layer, x), (exact, x.double())):
        given = given.clone().requires_grad_()
        output = module(given)[0]
        # the loss of what each gives, so that rounding in the output is in the gradient too
        grads = torch.autograd.grad(output, [given, *module.parameters()], torch.ones_like(output))
        results.append((output.detach(), *grads))
    torch.cuda.synchronize()
    errors = [float((a.double() - b).norm() / b.norm()) for a, b in zip(*results, strict=True)]
    return {"output": errors[0], "gradients": max(errors[1:])}


def races() -> dict[str, Any]:
    """Whether runs repeat bit by bit; and what compute-sanitizer says of a small one."""
    rows = [
        Row("LSTM", "bf16", 64, 40, 300),
        Row("GRU", "fp32", 64, 16, 512),
        Row("LSTM, normalised", "bf16", 32, 64, 1024),
    ]
    different = 0
    for row in rows:
        call = training(row.layer(backend="triton"), row.input())
        first = call()
        for _ in range(20):
            different += any(not torch.equal(a, b) for a, b in zip(first, call(), strict=True))
    found: dict[str, Any] = {"runs": 20 * len(rows), "different": different}
    if sanitizer := shutil.which("compute-sanitizer") or shutil.which(
        "/usr/local/cuda/bin/compute-sanitizer"
    ):
        for tool in ("memcheck", "racecheck"):
            found[tool] = sanitized(sanitizer, tool)
    return found


SMALL = (
    "import torch, gatewise as gw; l = gw.LSTM(8, 70, backend='triton').cuda().bfloat16(); "
    "x = torch.randn(3, 5, 8, device='cuda', dtype=torch.bfloat16); l(x)[0].sum().backward(); torch.cuda.synchronize()"
)


def sanitized(sanitizer: str, tool: str) -> str:
    command = [sanitizer, "--tool", tool, "--kernel-regex", "kns=ward", sys.executable, "-c", SMALL]
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=45)
    except subprocess.TimeoutExpired:
        return "not done after 45 s"
    lines = [
        line
        for line in (run.stdout + run.stderr).splitlines()
        if "SUMMARY" in line or "rror" in line
    ]
    return "; ".join(lines[-3:]) or f"ended with {run.returncode}"


Rows = Iterator[tuple[str, dict[str, Any]]]


def times(deadline: float, chip: dict[str, Any]) -> Rows:
    for row in timed_rows():
        if time.monotonic() > deadline:
            print(f"out of time before {row}", flush=True)
            return
        for mode, found in timed(row, chip):
            yield f"{row} {mode}", found


def timed(row: Row, chip: dict[str, Any]) -> Rows:
    """Each mode's times and floor; where something fails, its error and the others' times."""
    x = row.input()
    modules = {"gatewise": row.layer(backend="triton")}
    if row.cell in CUDNN:
        modules["cudnn"] = row.cudnn()
    for mode, of in MODES.items():
        calls, failed = {}, {}
        for name, module in modules.items():
            try:
                calls[name] = of(module, x)
                calls[name]()
                torch.cuda.synchronize()
            except Exception as error:
                calls.pop(name, None)
                failed[f"{name} failed"] = repr(error)[:300]
        yield mode, milliseconds(calls) | failed | {"floor": floor(row, mode, chip)}


def lengths() -> dict[str, Any]:
    """A batch of sequences of which most are short: with lengths, padded, and cuDNN's packed run."""
    found = {}
    for B, H in ((64, 256), (64, 512), (512, 1024)):
        row = Row("LSTM", "bf16", 512, B, H)
        x, layer = row.input(), row.layer(backend="triton")
        given = (
            torch.rand(row.B, generator=torch.Generator().manual_seed(3)) ** 2 * row.T
        ).long() + 1
        theirs = row.cudnn()
        packed = pack_padded_sequence(x, given, enforce_sorted=False)
        found[f"{row} inference"] = milliseconds(
            {
                "lengths": inference(layer, x, lengths=given),
                "padded": inference(layer, x),
                "cudnn packed": inference(theirs, packed),
                "cudnn padded": inference(theirs, x),
            }
        )
        found[f"{row} training"] = milliseconds(
            {
                "lengths": training(layer, x, lengths=given),
                "padded": training(layer, x),
                "cudnn padded": training(theirs, x),
            }
        )
    return found


def memory() -> dict[str, Any]:
    """Bytes that a training step takes at most, beside what was there before."""
    found: dict[str, Any] = {}
    for H in (256, 1024):
        row = Row("LSTM", "bf16", 512, 64, H)
        x = row.input()
        modules = {"gatewise": row.layer(backend="triton"), "cudnn": row.cudnn()}
        for name, module in modules.items():
            call = training(module, x)
            call()
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            call()
            torch.cuda.synchronize()
            found.setdefault(str(row), {})[name] = torch.cuda.max_memory_allocated() - before
    return found


def host() -> dict[str, Any]:
    """What a call takes of the host."""
    found: dict[str, Any] = {}
    for cell in CUDNN:
        row = Row(cell, "bf16", 256, 16, 256)
        x = row.input()
        modules = {"gatewise": row.layer(backend="triton"), "cudnn": row.cudnn()}
        for mode, of in MODES.items():
            calls = {name: of(module, x) for name, module in modules.items()}
            found[f"{row} {mode}"] = milliseconds(calls, on_the_host)
    return found


def graph_rows() -> Iterator[Row]:
    for H in (256, 1024):
        yield from (Row("LSTM", "bf16", T, 16, H) for T in (16, 256))


def graphs() -> dict[str, Any]:
    """Calls captured in a CUDA graph and replayed, which leaves nothing to the host."""
    found: dict[str, Any] = {}
    for row in graph_rows():
        x = row.input()
        modules = {"gatewise": row.layer(backend="triton"), "cudnn": row.cudnn()}
        for mode, of in MODES.items():
            calls = {name: captured(of(module, x)) for name, module in modules.items()}
            found[f"{row} {mode}"] = milliseconds(calls)
    return found


def captured(call: Callable[[], Any]) -> Callable[[], Any]:
    """The call as one launch of a graph."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()

    def replay() -> Callable[[], Any]:
        graph.replay()
        return call  # so that its input and its weights, which the graph reads, stay

    return replay


def compiled() -> dict[str, Any]:
    """A peephole LSTM as a loop under torch.compile; T is short, since it is compiled step by step."""
    row = Row("peephole", "bf16", 32, 16, 256)
    layer, x = row.layer(backend="triton"), row.input()
    w = {name.removesuffix("_l0"): value.detach() for name, value in layer.named_parameters()}

    def loop(x: Tensor) -> Tensor:
        inputs = x @ w["weight_ih"].T + w["bias_ih"] + w["bias_hh"]
        h = c = x.new_zeros(row.B, row.H)
        outputs = []
        for step in inputs:
            i, f, g, o = (step + h @ w["weight_hh"].T).chunk(4, -1)
            i, f = torch.sigmoid(i + w["pi"] * c), torch.sigmoid(f + w["pf"] * c)
            c = f * c + i * torch.tanh(g)
            h = torch.sigmoid(o + w["po"] * c) * torch.tanh(c)
            outputs.append(h)
        return torch.stack(outputs)

    start = time.monotonic()
    made = torch.compile(loop, mode="reduce-overhead")
    error = float((made(x) - layer(x)[0]).detach().float().abs().max())
    seconds = time.monotonic() - start
    calls = {"gatewise": inference(layer, x), "compiled": lambda: made(x), "loop": lambda: loop(x)}
    found: dict[str, Any] = {f"{row} inference": milliseconds(calls)}
    return found | {"compiling": {"seconds": seconds, "largest difference": error}}


# The whole -----------------------------------------------------------------------------------------


def machine() -> dict[str, Any]:
    import triton

    chip = torch.cuda.get_device_properties(0)
    return describe() | {
        "gpu": chip.name,
        "multiprocessors": chip.multi_processor_count,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "triton": triton.__version__,
        "bf16_tflops": rate(),
        "copy_tb_s": bandwidth(),
    }


def rate() -> float:
    """What a large product of random numbers runs at."""
    a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    return 2 * 8192**3 / milliseconds({"product": lambda: a @ a})["product"] / 1e9


def bandwidth() -> float:
    a = torch.randn(1 << 29, device="cuda")
    b = torch.empty_like(a)
    return 2 * a.nbytes / milliseconds({"copy": lambda: b.copy_(a)})["copy"] / 1e9


def floor(row: Row, mode: str, chip: dict[str, Any]) -> float:
    """Milliseconds below which no bf16 run goes: its products at the rate of a large one."""
    gates = 3 if row.cell == "GRU" else 4
    products = 2 * row.T * row.B * 2 * row.H * gates * row.H * (3 if mode == "training" else 1)
    return products / chip["bf16_tflops"] / 1e9


def table(report: dict[str, Any]) -> None:
    print(
        f"\n{report['machine']['gpu']}, torch {torch.__version__}; milliseconds, cuDNN's over ours, and the floor"
    )
    for name, row in report.get("times", {}).items():
        if "gatewise" not in row:
            print(f"{name:48} {json.dumps(row)[:90]}")
            continue
        ratio = (
            f"{row['cudnn']:9.2f} {row['cudnn'] / row['gatewise']:6.2f}"
            if "cudnn" in row
            else " " * 16
        )
        print(f"{name:48} {row['gatewise']:9.2f} {ratio} {row['floor']:9.3f}")
    for section in SECTIONS:
        for name, row in report.get(section, {}).items() if section != "times" else ():
            print(f"{section}: {name} {json.dumps(row)[:150]}")


def graphs_page(report: dict[str, Any]) -> str:
    """The table of docs/gpu.md of calls captured in graphs."""
    lines = [
        "| T | H | inference | cuDNN | | training | cuDNN | |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in graph_rows():
        cells = [str(row.T), str(row.H)]
        for times in (report["graphs"][f"{row} {mode}"] for mode in MODES):
            ours, theirs = times["gatewise"], times["cudnn"]
            cells += [f"{ours:.3f}", f"{theirs:.3f}", f"{theirs / ours:.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def page(report: dict[str, Any]) -> str:
    """The table of docs/gpu.md."""
    lines = [
        "| | B | H | inference | cuDNN | | training | cuDNN | |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in timed_rows():
        both = [report["times"].get(f"{row} {mode}", {}) for mode in MODES]
        if row.B not in (16, 64) or row.T != 256 or not all("gatewise" in times for times in both):
            continue
        cells = [f"{row.cell} {row.dtype}", str(row.B), str(row.H)]
        for times in both:
            cells.append(f"{times['gatewise']:.2f}")
            cells += (
                [f"{times['cudnn']:.2f}", f"{times['cudnn'] / times['gatewise']:.1f}"]
                if "cudnn" in times
                else ["", ""]
            )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


# By name, in the order in which they are run.
SECTIONS: dict[str, Callable[..., Any]] = {
    of.__name__: of for of in (right, lengths, memory, host, graphs, times, races, compiled)
}
# The rows whose kernels Triton is to compile first.
COMPILED_FIRST = {"right": checked_rows, "times": timed_rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--workers", type=int, default=12, help="processes that compile")
    parser.add_argument("--out", type=Path)
    parser.add_argument(
        "--minutes", type=float, default=8, help="after which no further row is timed"
    )
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=[*SECTIONS])
    given = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("this benchmark needs an NVIDIA GPU")
    # cuDNN multiplies float32 in TF32 by default, which the kernels do only if matrices may be
    torch.backends.cudnn.allow_tf32 = False
    start = time.monotonic()
    report: dict[str, Any] = {"machine": machine()}

    def keep(name: str, found: Any) -> None:
        report[name] = found
        report["seconds"] = time.monotonic() - start
        if given.out:
            given.out.write_text(json.dumps(report, indent=1) + "\n")

    first = [row for name, rows in COMPILED_FIRST.items() if name in given.only for row in rows()]
    if first:
        keep("not compiled", compile_all([replace(row, T=3) for row in first], given.workers))
    deadline = start + 60 * given.minutes
    for name, section in SECTIONS.items():
        if name not in given.only:
            continue
        rows: dict[str, Any] = {}
        try:
            if section is times:
                for row, found in section(deadline, report["machine"]):
                    rows[row] = found
                    keep(name, rows)
            else:
                keep(name, section())
        except Exception as error:  # what was measured before is kept
            keep(name, rows | {"error": {"what": repr(error)[:500]}})
        print(f"{name} done after {report['seconds']:.0f} s", flush=True)
    table(report)


if __name__ == "__main__":
    main()
