"""The machine and the software versions of a benchmark."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from gatewise.bench.peers import PEERS


def describe() -> dict[str, Any]:
    """The processor, its cores and caches, the versions of the packages, and gatewise's commit."""
    return dict(
        cpu=_model(),
        cores=cores(),
        caches=_caches(),
        instructions=torch.backends.cpu.get_cpu_capability(),
        system=platform.platform(),
        python=platform.python_version(),
        versions=_versions(),
        commit=_commit(),
    )


def cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def _caches() -> dict[str, str]:
    """The caches of the first core, by level and kind; empty where Linux does not list them."""
    found = {}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            level, kind, size = ((index / n).read_text().strip() for n in ("level", "type", "size"))
        except OSError:
            continue
        found[f"L{level} {kind.lower()}"] = size
    return found


def _versions() -> dict[str, str]:
    names = {"torch", *(module for peer in PEERS.values() for module in peer.modules)}
    found = {}
    for name in sorted(names | {"gatewise", "numpy"}):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _commit() -> str:
    """The commit of the checkout that gatewise was imported from; empty without a checkout."""
    try:
        run = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:
        return ""
    return run.stdout.strip()
