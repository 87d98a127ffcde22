"""A page of gates in a notebook."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from gatewise.arguments import Count, checked_options
from gatewise.gates.page.record import PageData
from gatewise.gates.page.writer import page_of
from gatewise.nn.trace import Trace


class PageView:
    """A page that a notebook shows: the result of a cell's last line.

    Attributes:
        html: the page.
        height: of the frame, in pixels.
    """

    def __init__(self, html: str, height: int) -> None:
        self.html, self.height = html, height

    def _repr_html_(self) -> str:
        """A frame that may run the page's own scripts and reaches nothing of the notebook."""
        return (
            f'<iframe srcdoc="{escape(self.html)}" sandbox="allow-scripts" title="The gates" '
            f'style="width: 100%; height: {self.height}px; border: 0"></iframe>'
        )


def notebook_page(
    traces: Trace | Mapping[str, Trace],
    *,
    title: str = "The gates",
    height: Count = 760,
    **options: Any,
) -> PageView:
    """The page of traces, which a notebook shows in a frame.

    Args:
        traces: the trace of a layer, or those of a model by module, as :func:`gatewise.trace` gives them.
        title: the heading.
        height: of the frame, in pixels.
        **options: ``strips``, ``predictions``, ``labels``, ``step_labels``, ``history`` and ``horizon`` of
            :func:`gatewise.gates.write_page`.

    Raises:
        OptionError: there is no trace, a sequence without steps, or ``height`` is not positive.
        ShapeError: strips, labels or lengths do not fit the sequences.
    """
    height = checked_options(notebook_page, dict(height=height)).height
    named = {"model": traces} if isinstance(traces, Trace) else traces
    return PageView(page_of(PageData(named, {}), title, **options), height)
