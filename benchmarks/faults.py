"""Plants known faults in a copy of the source, one at a time, and says which test finds each.

    python benchmarks/faults.py [NAME ...] [--jobs 1] [--out benchmarks/results/faults.json]
    python benchmarks/faults.py --check        # only: does every fault still have its place in the source?
    python benchmarks/faults.py --control      # the same test files on a copy without a fault; all must pass

The faults stand in planted_faults.py. The tests are those of `make test`, of the files that the fault
names, up to the first that fails. The exit status is 1 if a fault was not found, or has lost its place.
Run it before and after tests are made fewer: none may be lost.

The native core is not rebuilt: a fault in C++ is a matter of `make sanitize` and of the kernels' tests.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import re
import shutil
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from planted_faults import FAULTS, Fault

ROOT = Path(__file__).parents[1]
LEFT_OUT = shutil.ignore_patterns(".*", "build", "dist", "runs", "__pycache__", "*.egg-info")
CACHE = ROOT / "build" / "faults" / "cells"  # the compiled cells of all copies
SECONDS = 900.0
_FIRST_FAILURE = re.compile(r"^(?:FAILED|ERROR) (.+?)(?: - |$)", re.MULTILINE)

# An editable installation finds its modules by itself; in a copy they must come from the copy.
_OWN_MODULES = """\
import sys
sys.meta_path[:] = [f for f in sys.meta_path if type(f).__name__ != "ScikitBuildRedirectingFinder"]
"""


def places(fault: Fault, source: Path) -> list[Path]:
    """The files in which the fault's old text stands, each as often as it does."""
    found = []
    for path in sorted(source.rglob("*.py")):
        found += [path] * path.read_text(encoding="utf-8").count(fault.old)
    return found


def lost(faults: Sequence[Fault]) -> list[str]:
    """A sentence for each fault whose old text does not stand exactly once in the source, or whose test
    files are not all there."""
    sentences = []
    for fault in faults:
        count = len(places(fault, ROOT / "src"))
        if count != 1:
            sentences.append(
                f"{fault.name}: its old text stands {count} times in src, expected once"
            )
        for name in fault.tests:
            if not (ROOT / "tests" / name).exists():
                sentences.append(f"{fault.name}: there is no tests/{name}")
    return sentences


@contextmanager
def copy_of_the_tree() -> Iterator[Path]:
    """A folder with the project's files, and with the native libraries of the installed package."""
    installed = Path(sysconfig.get_path("platlib")) / "gatewise" / "_native"
    with tempfile.TemporaryDirectory(prefix="gatewise-fault-") as folder:
        copy = Path(folder) / "tree"
        shutil.copytree(ROOT, copy, ignore=LEFT_OUT)
        native = copy / "src" / "gatewise" / "_native"
        native.mkdir()
        for each in installed.iterdir():
            (native / each.name).symlink_to(each)
        (Path(folder) / "sitecustomize.py").write_text(_OWN_MODULES)
        yield copy


def tested(copy: Path, tests: Sequence[str], first: bool) -> tuple[int | None, str]:
    """Pytest's exit status and output for some test files of a copy; None where it had to be ended.
    Where ``first``, it stops at the first failure."""
    CACHE.mkdir(parents=True, exist_ok=True)
    arguments = ["-q", "--tb=line", "-p", "no:cacheprovider", *(["-x"] if first else [])]
    arguments += [f"tests/{name}" for name in tests]
    output = copy.parent / "output.txt"
    process = _FORKS.Process(target=_pytest, args=(copy, arguments, output))
    process.start()
    process.join(SECONDS)
    ended = process.exitcode
    if ended is None:
        process.kill()
        process.join()
    return ended, output.read_text(errors="replace") if output.exists() else ""


# Each run is forked from a process that has imported what takes longest, and nothing of gatewise.
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["torch", "pytest"])


def _pytest(copy: Path, arguments: list[str], output: Path) -> None:
    """Runs pytest in this process, on the modules of the copy, as do the processes that tests start."""
    with output.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(copy)
    paths = [str(copy.parent), str(copy / "src")]
    exec(_OWN_MODULES, {})
    sys.path[:0] = ["", *paths]
    os.environ |= {
        "PYTHONPATH": os.pathsep.join(paths),
        "GATEWISE_CACHE": str(CACHE),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    sys.dont_write_bytecode = True
    import pytest

    sys.exit(int(pytest.main(arguments)))


def tried(fault: Fault) -> dict[str, Any]:
    """Whether a test finds the fault, which one, and after how many seconds."""
    started = time.monotonic()
    with copy_of_the_tree() as copy:
        (path,) = places(fault, copy / "src")
        text = path.read_text(encoding="utf-8")
        path.write_text(text.replace(fault.old, fault.new), encoding="utf-8")
        status, output = tested(copy, fault.tests, first=True)
        if status is None:
            outcome, by = "found", f"no end within {SECONDS:.0f} s"
        else:
            match = _FIRST_FAILURE.search(output)
            outcome = "found" if match else "missed" if status == 0 else f"exit status {status}"
            by = match[1] if match else output[-300:] if status else ""
        file = str(path.relative_to(copy))
    seconds = round(time.monotonic() - started, 1)
    return dict(name=fault.name, file=file, outcome=outcome, by=by, seconds=seconds)


def control(faults: Sequence[Fault]) -> int:
    """The exit status of all the faults' test files on a copy without a fault."""
    files = sorted({name for fault in faults for name in fault.tests})
    with copy_of_the_tree() as copy:
        status, output = tested(copy, files, first=False)
    print(output[-4000:])
    return 1 if status is None else status


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="of faults; all if none is given")
    parser.add_argument("--jobs", type=int, default=1, help="faults at a time (1)")
    parser.add_argument("--out", type=Path, help="a JSON file for the results")
    parser.add_argument("--check", action="store_true", help="only look for the faults' places")
    parser.add_argument("--control", action="store_true", help="run the tests without a fault")
    given = parser.parse_args()
    faults = [fault for fault in FAULTS if not given.names or fault.name in given.names]
    for sentence in (sentences := lost(faults)):
        print(sentence, file=sys.stderr)
    if given.check or sentences:
        return bool(sentences)
    if given.control:
        return control(faults)
    os.environ["OMP_NUM_THREADS"] = "1"
    results = []
    with ThreadPoolExecutor(given.jobs) as pool:
        for result in pool.map(tried, faults):
            results.append(result)
            print("{outcome:<8} {name:<34} {seconds:>6} s  {by}".format(**result), flush=True)
    found = sum(result["outcome"] == "found" for result in results)
    print(f"{found} of {len(results)} faults found")
    if given.out is not None:
        given.out.write_text(json.dumps(results, indent=1) + "\n")
    return found < len(results)


if __name__ == "__main__":
    sys.exit(main())
