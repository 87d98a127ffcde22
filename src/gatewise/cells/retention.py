"""What a cell keeps of a state from one step to the next: the factor of the state's old value."""

from __future__ import annotations

from collections.abc import Mapping

from gatewise.cells.language import Cell, Value, constant, operate, topological

_ONE = constant(1)


def retention(cell: Cell) -> dict[str, Value | None]:
    """For each state the factor of its own old value in its new value; None if it is not used so.

    It is f for the LSTM's c, z for the GRU's h, 1 - d for the LEM's z, and None for the simple network's
    h. The old value counts where it passes sums, products and quotients only. Where it also enters a
    function, as through peepholes, this part is no retention and does not count.
    """
    return {name: _factor(cell.values[name], name) for name in cell.state}


def _factor(new: Value, state: str) -> Value | None:
    factors: dict[Value, Value] = {}
    for value in topological([new]):
        if (value.op, value.name) == ("state", state):
            factors[value] = _ONE
        else:
            factor = _of_operation(value, factors)
            if factor is not None:
                factors[value] = factor
    return factors.get(new)


def _of_operation(value: Value, factors: Mapping[Value, Value]) -> Value | None:
    """The factor of the result, from those of the arguments that have one."""
    known = [factors.get(arg) for arg in value.args]
    match value.op, known:
        case "add", [a, b]:
            return a + b if a is not None and b is not None else b if a is None else a
        case "sub", [a, b]:
            return a if b is None else -b if a is None else a - b
        case "neg", [a] if a is not None:
            return -a
        case "detach", [a]:
            return a
        case "mul", [a, b]:
            first = None if a is None else operate("mul", a, value.args[1])
            second = None if b is None else operate("mul", value.args[0], b)
            return first if second is None else second if first is None else first + second
        case "div", [a, _] if a is not None:
            return operate("div", a, value.args[1])
    return None
