"""The verb bench."""

from __future__ import annotations

import argparse
import json

from gatewise.cli.parsing import INTEGER, NUMBER, PATH


def add_bench(verb: argparse.ArgumentParser, argv: list[str]) -> None:
    verb.set_defaults(run=_run_bench)
    verb.add_argument(
        "--cells", default="lstm", help="built-in cells, such as lstm,gru (default: lstm)"
    )
    verb.add_argument("--shapes", nargs="+", metavar="T,B,I,H", help="steps, batch, inputs, units")
    verb.add_argument(
        "--mode",
        default="inference",
        help="inference (the default), training, or both: inference,training",
    )
    verb.add_argument(
        "--peers",
        default="all",
        help="other libraries: torch,onnxruntime,openvino,keras-jax, or none (default: all)",
    )
    verb.add_argument("--backends", help="gatewise's backends (default: all but the reference)")
    verb.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    verb.add_argument(
        "--threads", type=INTEGER, help="threads (default: torch's number of threads)"
    )
    length = verb.add_mutually_exclusive_group()
    length.add_argument(
        "--repeats", type=INTEGER, help="repetitions for each shape; each runs all contenders once"
    )
    length.add_argument(
        "--seconds", type=NUMBER, help="measuring time for each shape (default: 10)"
    )
    verb.add_argument("--json", type=PATH, help="also write all results to this file")
    verb.add_argument("--quick", action="store_true", help="three shapes, one second each")


def _run_bench(given: argparse.Namespace) -> None:
    import torch

    from gatewise.bench.options import check_writable, plan
    from gatewise.bench.run import run
    from gatewise.bench.table import Printer, closing

    planned = plan(given)
    check_writable(given.json)
    report = run(planned, Printer(planned.dtype, planned.threads or torch.get_num_threads()))
    print(f"\n{closing(report)}")
    if given.json is not None:
        given.json.write_text(json.dumps(report, indent=1) + "\n")
        print(f"\nfigures   {given.json}")
