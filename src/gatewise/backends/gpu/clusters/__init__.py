"""Time loops in CUDA C++, whose programs form clusters; compiled by NVRTC."""
