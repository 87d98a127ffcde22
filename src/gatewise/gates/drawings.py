"""What ``Trace.plot`` and ``Trace.view`` call. An import of ``gatewise`` registers it."""

from __future__ import annotations

from typing import Any

from gatewise.nn.trace import DRAWINGS, Trace


def plot(trace: Trace, **options: Any) -> Any:
    from gatewise.gates.picture import gate_map

    return gate_map(trace, **options)


def view(trace: Trace, **options: Any) -> Any:
    from gatewise.gates.notebook import notebook_page

    return notebook_page(trace, **options)


DRAWINGS.update(plot=plot, view=view)
