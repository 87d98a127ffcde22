"""Kernels compiled by NVRTC and launched, both by NVIDIA's cuda-core; and what a chip has room for."""

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
        self._device, self._shared = device, shared
        with torch.cuda.device(device):
            self._kernel = _loaded(source, name, shared)

    def launch(self, slices: int, tiles: int, parts: int, words: Sequence[int]) -> None:
        """Tiles of so many slices, ``parts`` to a cluster; all run at once."""
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
    """A kernel on the current device, which may have so much shared memory."""
    index = torch.cuda.current_device()
    Device(index).set_current()
    kernel = compiled(source, torch.cuda.get_device_capability(index)).get_kernel(name)
    # which cuda-core can read but not set
    attribute = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    (found,) = driver.cuKernelSetAttribute(attribute, shared, kernel.handle, driver.CUdevice(index))
    if found != driver.CUresult.CUDA_SUCCESS:
        raise BackendError(f"the GPU gives a kernel no {shared} bytes of shared memory: {found!r}")
    return kernel


@cache
def chip(index: int) -> Chip:
    """What there is room for on a device."""
    with torch.cuda.device(index):
        device = Device(index)
        shared = device.properties.max_shared_memory_per_block_optin
        kernel = _loaded('extern "C" __global__ void empty() {}', "empty", shared)

        def programs(parts: int) -> int:
            config = LaunchConfig(grid=1, cluster=parts, block=THREADS, shmem_size=shared)
            clusters = kernel.occupancy.max_active_clusters(config, stream=device.default_stream)
            return clusters * parts

        return Chip(shared, tuple((parts, programs(parts)) for parts in _PREFERRED))
