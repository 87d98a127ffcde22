"""docs/gpu.md against the benchmark's results."""

import json

import pages


def test_the_tables_are_those_of_the_results():
    benchmark = pages.benchmark("gpu")
    report = json.loads((pages.ROOT / "benchmarks" / "results" / "gpu.json").read_text())
    assert len(benchmark.page(report).splitlines()) > 40
    assert benchmark.page(report) in pages.text("gpu.md")
    assert benchmark.graphs_page(report) in pages.text("gpu.md")
