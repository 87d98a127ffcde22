"""Kernels, compiled by NVRTC and launched through NVIDIA's cuda-core; and what a chip has room for."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from cuda.bindings import driver
from cuda.core import Device, LaunchConfig, Program, ProgramOptions, Stream, launch

from gatewise.backends.gpu.clusters.plan import THREADS, Chip
from gatewise.errors import BackendError

_PREFERRED = (4, 8, 2)  # sizes of clusters


def compiled(source: str, capability: tuple[int, int]) -> Any:
    """The object code for a compute capability. Needs no GPU."""
    options = ProgramOptions(
        arch="sm_{}{}".format(*capability),
        std="c++17",
        include_path=[str(Path(__file__).parent)],
        device_as_default_execution_space=True,
    )
    return Program(source, "c++", options).compile("cubin")


class Kernel:
    """A kernel on a device, compiled from its source; each program has ``shared`` bytes of shared memory."""

    def __init__(self, source: str, name: str, shared: int, device: torch.device) -> None:
        self._device, self._shared = device, shared
        with torch.cuda.device(device):
            self._kernel = _loaded(source, name, shared)

    def launch(self, slices: int, tiles: int, parts: int, words: Sequence[int]) -> None:
        """Launches tiles of ``slices`` programs, ``parts`` of them a cluster. All run at once."""
        with torch.cuda.device(self._device):
            config = LaunchConfig(
                grid=(slices // parts, tiles),
                cluster=(parts, 1),
                block=THREADS,
                shmem_size=self._shared,
                is_cooperative=True,
            )
            stream = Stream.from_handle(torch.cuda.current_stream().cuda_stream)
            launch(stream, config, self._kernel, *words)


def _loaded(source: str, name: str, shared: int) -> Any:
    """A kernel on the current device whose programs may have ``shared`` bytes of shared memory."""
    index = torch.cuda.current_device()
    Device(index).set_current()
    kernel = compiled(source, torch.cuda.get_device_capability(index)).get_kernel(name)
    # cuda-core can read this attribute, but not set it
    attribute = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    (found,) = driver.cuKernelSetAttribute(attribute, shared, kernel.handle, driver.CUdevice(index))
    if found != driver.CUresult.CUDA_SUCCESS:
        raise BackendError(f"the GPU gives a kernel no {shared} bytes of shared memory: {found!r}")
    return kernel


@cache
def chip(index: int) -> Chip:
    """The shared memory and the clusters of a device."""
    with torch.cuda.device(index):
        device = Device(index)
        shared = device.properties.max_shared_memory_per_block_optin
        kernel = _loaded('extern "C" __global__ void empty() {}', "empty", shared)

        def programs(parts: int) -> int:
            config = LaunchConfig(grid=1, cluster=parts, block=THREADS, shmem_size=shared)
            clusters = kernel.occupancy.max_active_clusters(config, stream=device.default_stream)
            return clusters * parts

        return Chip(shared, tuple((parts, programs(parts)) for parts in _PREFERRED))
