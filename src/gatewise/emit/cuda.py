"""A cell's step and its derived gradient as CUDA C++: a translation unit with a time loop for some sizes."""

from __future__ import annotations

from collections.abc import Mapping

from gatewise.cells.language import Cell
from gatewise.emit.cpp import equations


def source(
    cell: Cell, direction: str, number: str, constants: Mapping[str, int | bool], words: int
) -> str:
    """The kernel ``direction`` ("forward" or "backward") of backends/gpu/clusters/loops.h, which takes so many
    words of eight bytes. ``number`` is what is stored."""
    given = ", ".join(f"long long w{k}" for k in range(words))
    listed = ", ".join(f"w{k}" for k in range(words))
    lines = (f"constexpr int {name} = {int(value)};" for name, value in constants.items())
    return f"""\
#include "maths.h"

{equations(cell)}
namespace gw {{
using Number = {number};
{chr(10).join(lines)}
}}  // namespace gw

#include "loops.h"

GW_KERNEL {direction}({given}) {{
    const long long words[] = {{{listed}}};
    gw::{direction.capitalize()} given;
    static_assert(sizeof(given) == sizeof(words));
    memcpy(&given, words, sizeof(given));
    gw::{direction}(given);
}}
"""
