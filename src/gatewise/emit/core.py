"""How the native core is compiled: levels, flags and limits, stated once.

CMake reads them through ``csrc/generate.py``; a user's own cell is compiled with the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

STANDARD = 20  # of C++, with GNU's extensions
OPTIMISATION = "-O3"
COMMON_FLAGS = (
    "-fvisibility=hidden",
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-fno-trapping-math",
)
# Of the cells' files, by GNU's compiler; clang refuses them. Two interleaved chains of operations take the
# time of one, and the compiler interleaves them only where it is asked to.
GNU_CELL_FLAGS = ("-fschedule-insns", "-fsched-pressure")


@dataclass(frozen=True)
class Level:
    """A set of instructions that the core is compiled for, as a library of its own.

    Attributes:
        flags: of the compiler.
        test: the C++ expression that tells whether this process may use the instructions.
        x86: whether it is a level of x86-64 processors, or of all others.
    """

    flags: tuple[str, ...]
    test: str
    x86: bool = True


_V4 = ("-march=x86-64-v4", "-mprefer-vector-width=512")
_V4BF16 = Level(
    (*_V4, "-mavx512bf16"),
    '__builtin_cpu_supports("x86-64-v4") && __builtin_cpu_supports("avx512bf16")',
)

# Best first: the first that this machine has is loaded.
LEVELS: Mapping[str, Level] = {
    "v4amx": Level(
        (*_V4BF16.flags, "-mamx-tile", "-mamx-bf16"),
        f"{_V4BF16.test} && gw::amx::permitted()",
    ),
    "v4bf16": _V4BF16,
    "v4": Level(_V4, '__builtin_cpu_supports("x86-64-v4")'),
    "v3": Level(("-march=x86-64-v3",), '__builtin_cpu_supports("x86-64-v3")'),
    "v2": Level(("-march=x86-64-v2",), '__builtin_cpu_supports("x86-64-v2")'),
    "neon": Level((), "true", x86=False),
}

# The most that a cell may have of each. The core has arrays of these sizes.
ARRAY_LIMITS = {"states": 8, "accumulators": 32, "params": 16, "values": 64}
# A compiler takes seconds for as many, and minutes for many more.
LIMITS = {**ARRAY_LIMITS, "operations": 256, "functions": 64}

DEFINITIONS = tuple(f"GW_MAX_{name.upper()}={most}" for name, most in ARRAY_LIMITS.items())


def cell_flags(level: str, gnu: bool) -> tuple[str, ...]:
    """The flags with which a cell's file becomes a library of its own, for one level.

    Args:
        gnu: whether the compiler is GNU's.
    """
    return (
        *(f"-std=gnu++{STANDARD}", OPTIMISATION, "-shared", "-fPIC", *COMMON_FLAGS),
        *(f"-D{definition}" for definition in DEFINITIONS),
        *LEVELS[level].flags,
        *(GNU_CELL_FLAGS if gnu else ()),
    )


def cmake() -> str:
    """The CMake variables of all this, as the text of a file."""
    levels = {
        x86: [name for name, level in LEVELS.items() if level.x86 == x86] for x86 in (True, False)
    }
    variables = {
        "GW_STANDARD": [str(STANDARD)],
        "GW_OPTIMISATION": [OPTIMISATION],
        "GW_COMMON": COMMON_FLAGS,
        "GW_GNU_CELL_FLAGS": GNU_CELL_FLAGS,
        "GW_DEFINITIONS": DEFINITIONS,
        "GW_LEVELS_X86": levels[True],
        "GW_LEVELS_OTHER": levels[False],
        **{f"GW_FLAGS_{name}": level.flags for name, level in LEVELS.items()},
    }
    return "".join(f"set({name} {' '.join(values)})\n" for name, values in variables.items())


def level_tests() -> str:
    """A header for the core: ``GW_LEVEL_TEST(name, whether this machine has it)`` of each level."""
    lines: dict[bool, list[str]] = {True: [], False: []}
    for name, level in LEVELS.items():
        lines[level.x86].append(f'GW_LEVEL_TEST("{name}", {level.test})\n')
    return f"#if defined(__x86_64__)\n{''.join(lines[True])}#else\n{''.join(lines[False])}#endif\n"
