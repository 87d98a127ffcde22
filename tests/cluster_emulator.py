"""The loops in CUDA C++ on a CPU: compiled by the C++ compiler, with clusters/device.h and device.cpp in the
place of the chip's functions."""

from __future__ import annotations

import atexit
import ctypes
import hashlib
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import gatewise

LOOPS = Path(gatewise.__file__).parent / "backends/gpu/clusters"
_DEVICE = Path(__file__).parent / "clusters"
CHANGED: dict[str, str] = {}  # a file's text, for tests that change it
_RUN = """
static void call(const long long* w) {{ {name}({words}); }}
extern "C" const char* run(const long long* w, int slices, int tiles, int parts, int shared) {{
    return gw::launch(call, w, slices, tiles, parts, shared, gw::THREADS);
}}
"""


class Kernel:
    """As clusters.program has it."""

    def __init__(self, source, name, shared, device):
        self.words = source.split(f"GW_KERNEL {name}(")[1].split(")")[0].count(",") + 1
        words = ", ".join(f"w[{k}]" for k in range(self.words))
        self.library = ctypes.CDLL(str(_built(source + _RUN.format(name=name, words=words))))
        self.library.run.restype = ctypes.c_char_p
        self.shared = shared

    def launch(self, slices, tiles, parts, words):
        assert len(words) == self.words
        assert slices % parts == 0
        given = (ctypes.c_longlong * self.words)(*words)
        failure = self.library.run(given, slices, tiles, parts, self.shared)
        assert failure is None, failure.decode()


@cache
def _folder():
    folder = tempfile.mkdtemp(prefix="gatewise-clusters-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def _built(text):
    files = _headers() | {"library.cpp": text} | CHANGED
    return _library(tuple(files.items()), _device())


@cache
def _device():
    files = _headers() | {"library.cpp": (_DEVICE / "device.cpp").read_text()}
    return _library(tuple(files.items()))


def _headers():
    """The loops' own, but for the chip's functions."""
    headers = (*LOOPS.glob("*.h"), _DEVICE / "device.h")
    return {header.name: header.read_text() for header in headers}


@cache
def _library(files, *needed):
    # the loops look for device.h beside themselves first
    place = _folder() / hashlib.sha256(repr(files).encode()).hexdigest()[:16]
    place.mkdir(exist_ok=True)
    for name, text in files:
        (place / name).write_text(text)
    flags = ("-std=gnu++20", "-O1", "-fPIC", "-shared", "-pthread", "-Wall", "-Wno-unknown-pragmas")
    library = place / "library.so"
    command = ["c++", *flags, "-o", library, place / "library.cpp", *needed]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return library
