"""Compiles small C++ drivers, so that the headers of csrc are tested without the extension."""

import ctypes
import platform
import shutil
import subprocess
from pathlib import Path

from gatewise.emit.core import LEVELS

HERE = Path(__file__).parent
FLAGS = ("-std=c++20", "-O3", "-ffp-contract=fast", "-Wall", "-Wextra", "-Werror")

COMPILER = shutil.which("c++")


def _cpu_flags():
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return set()
    return set(next((line for line in text.splitlines() if line.startswith("flags")), "").split())


def levels():
    """What this machine can run, as {name: (compiler flags, bytes of a vector)}."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return {"default": ((), 16)}
    has = _cpu_flags()
    needs = {"v2": ({"sse4_2"}, 16), "v3": ({"avx2", "fma", "bmi2"}, 32)}
    needs["v4"] = ({"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}, 64)
    found = {
        name: (LEVELS[name].flags, width)
        for name, (wanted, width) in needs.items()
        if wanted <= has
    }
    return found or {"default": ((), 16)}


def compile_shared(source, flags, out):
    """The shared library `out` from one file of tests/native, opened."""
    command = [COMPILER, "-shared", "-fPIC", *FLAGS, *flags, str(HERE / source), "-o", str(out)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stderr}"
    return ctypes.CDLL(str(out))
