"""What clusters.program asks of the driver: run with clusters/driver.c as libcuda.so.1 and a kernel's object code."""

import sys
import warnings
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import torch
from cuda.core import ObjectCode

from gatewise.backends.gpu.clusters import program

warnings.simplefilter("error")
torch.cuda.device = lambda index: nullcontext()
torch.cuda.current_device = lambda: 0
torch.cuda.get_device_capability = lambda index: (9, 0)
torch.cuda.current_stream = lambda: SimpleNamespace(cuda_stream=77)
code = Path(sys.argv[1]).read_bytes()
program.compiled = lambda source, capability: ObjectCode.from_cubin(code)

print(program.chip(0), flush=True)
kernel = program.Kernel("", "forward", 200_000, torch.device("cuda", 0))
kernel.launch(128, 2, 4, [1 << 40, 22, 33])
