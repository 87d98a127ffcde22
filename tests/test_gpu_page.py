"""docs/gpu.md against the benchmark's results."""

import importlib.util
import json
import sys
from pathlib import Path

import pages

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def test_the_table_is_that_of_the_results():
    place = importlib.util.spec_from_file_location("gpu_benchmark", BENCHMARKS / "gpu.py")
    benchmark = importlib.util.module_from_spec(place)
    sys.modules[place.name] = benchmark  # dataclasses look a module up by its name
    place.loader.exec_module(benchmark)
    report = json.loads((BENCHMARKS / "results" / "gpu.json").read_text())
    assert len(benchmark.page(report).splitlines()) > 40
    assert benchmark.page(report) in pages.text("gpu.md")
