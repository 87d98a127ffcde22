"""Kernels compiled by NVRTC and launched, both by NVIDIA's cuda-core; and what a chip has room for."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from cuda.core import Device, LaunchConfig, Program, ProgramOptions, launch

from gatewise.backends.gpu.clusters.plan import Chip

THREADS = 256  # of a program
_PREFERRED = (4, 8, 2)  # sizes of clusters


def compiled(source: str, capability: tuple[int, int]) -> Any:
    """The object code, for chips of this compute capability. Needs no chip."""
    options = ProgramOptions(
        arch="sm_{}{}".format(*capability),
        std="c++17",
        include_path=[str(Path(__file__).parent)],
        device_as_default_execution_space=True,
    )
    return Program(source, "c++", options).compile("cubin")


class Kernel:
    """A kernel of a text, on a device; its programs have so much shared memory."""

    def __init__(self, source: str, name: str, shared: int, device: torch.device) -> None:
        self._kernel = compiled(source, torch.cuda.get_device_capability(device)).get_kernel(name)
        self._kernel.attributes.max_dynamic_shared_size_bytes = shared
        self._shared, self._device = shared, device

    def launch(self, slices: int, tiles: int, parts: int, words: Sequence[int]) -> None:
        """Tiles of so many slices, ``parts`` to a cluster; all run at once."""
        config = LaunchConfig(
            grid=(slices // parts, tiles),
            cluster=(parts, 1),
            block=THREADS,
            shmem_size=self._shared,
            is_cooperative=True,
        )
        with torch.cuda.device(self._device):
            launch(_Current(), config, self._kernel, *words)


class _Current:
    """Torch's stream, as cuda-core takes one of another library's."""

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, torch.cuda.current_stream().cuda_stream


@cache
def chip(index: int) -> Chip:
    """What there is room for on a device."""
    with torch.cuda.device(index):
        device = Device(index)
        device.set_current()
        shared = device.properties.max_shared_memory_per_block_optin
        empty = 'extern "C" __global__ void empty() {}'
        kernel = compiled(empty, torch.cuda.get_device_capability(index)).get_kernel("empty")
        kernel.attributes.max_dynamic_shared_size_bytes = shared

        def programs(parts: int) -> int:
            config = LaunchConfig(grid=1, cluster=parts, block=THREADS, shmem_size=shared)
            clusters = kernel.occupancy.max_active_clusters(config, stream=device.default_stream)
            return clusters * parts

        return Chip(shared, tuple((parts, programs(parts)) for parts in _PREFERRED))
