"""Figures of report pages: colours, lines and labels, conversion to SVG, and the plot of training losses."""

from __future__ import annotations

import io
import re
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from gatewise.errors import need
from gatewise.ink import INK, MUTED, RULE, quiet
from gatewise.train.history import History

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = np.ndarray

MODEL, NAIVE, LAST = "#0f766e", "#c2700c", "#8b93a7"
_PIXELS = 120  # of the page, for an inch of a figure
VALIDATION, TEST = "#e3f1f4", "#fbefd9"
# The colours of the page in light mode, which are also those of the figures, and in dark mode.
PAGE = {
    "ink": (INK, "#e2e8f0"),
    "muted": (MUTED, "#94a3b8"),
    "rule": (RULE, "#3b4654"),
    "model": (MODEL, "#2dd4bf"),
    "naive": (NAIVE, "#f0a44b"),
    "last": (LAST, "#7d879c"),
    "validation": (VALIDATION, "#173840"),
    "test": (TEST, "#40331c"),
}


def losses_figure(history: History) -> Figure:
    figure, axis = new_figure(4.5, 2.4)
    ends = {}
    for name, losses, colour in (
        ("training", history.train, LAST),
        ("validation", history.validation, MODEL),
    ):
        rounds = np.arange(1, len(losses) + 1)
        axis.plot(rounds, losses, color=colour, lw=1.5, marker="o", ms=2.5)
        if losses:
            ends[name] = len(losses), np.asarray(losses), colour
    axis.locator_params(axis="x", nbins=9, integer=True)
    axis.locator_params(axis="y", nbins=5)
    axis.margins(y=0.14)
    later = [*history.train[1:], *history.validation]
    room = np.ptp(later) if later else 0.0
    if room > 0 and history.train[0] > max(later) + 2 * room:
        # with the first round's high loss in range, all other losses would look equal
        axis.set_ylim(min(later) - 0.2 * room, max(later) + 0.4 * room)
        axis.annotate(f"training from {history.train[0]:.3g}", (0, 1), (2, 3), xycoords="axes fraction",
                      textcoords="offset points", fontsize=7.5, color=MUTED)  # fmt: skip
    if history.best < len(history.validation):
        kept = history.best + 1, history.validation[history.best]
        axis.plot(*kept, "o", ms=8, mfc="none", mec=MODEL, mew=1.3)
        axis.annotate("kept", kept, (0, 7), textcoords="offset points", fontsize=8, color=MODEL,
                      ha="center", va="bottom")  # fmt: skip
    axis.set_xlabel("round", fontsize=8, color=MUTED)
    label_ends(axis, ends)
    return figure


def new_figure_rows(width: float, height: float, rows: int) -> tuple[Figure, list[Axes]]:
    figures = need("matplotlib.figure", "tasks")
    figure = figures.Figure(figsize=(width, height), layout="constrained")
    axes = list(figure.subplots(rows, 1, squeeze=False)[:, 0])
    for axis in axes:
        quiet(axis)
    return figure, axes


def new_figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure, axes = new_figure_rows(width, height, 1)
    return figure, axes[0]


def line(axis: Axes, x: Array, y: Array, **style: Any) -> None:
    """Draws a line with gaps at missing values, and a dot for a value between two gaps."""
    axis.plot(x, y, solid_capstyle="round", **style)
    seen = np.pad(np.isfinite(y), 1)
    alone = seen[1:-1] & ~seen[:-2] & ~seen[2:]
    if alone.any():
        axis.plot(x[alone], y[alone], ".", ms=3, color=style["color"], alpha=style.get("alpha"))


def label_ends(axis: Axes, lines: dict[str, tuple[int, Array, str]]) -> None:
    """Writes the name of each line at its end, without overlap.

    Args:
        lines: for each name the line's last x, its values and its colour.
    """
    low, high = axis.get_ylim()
    figure = axis.get_figure(root=True)
    gap = 0.16 / (0.75 * figure.get_size_inches()[1])  # type: ignore[union-attr]
    known = [(n, x, v[np.isfinite(v)], c) for n, (x, v, c) in lines.items()]
    ends = sorted(((v[-1] - low) / (high - low), n, x, c) for n, x, v, c in known if len(v))
    if not ends:
        return
    heights = [end[0] for end in ends]
    for k in range(1, len(heights)):
        heights[k] = max(heights[k], heights[k - 1] + gap)
    excess = max(0.0, heights[-1] - max(1.0, ends[-1][0]))
    right = max(x for _, _, x, _ in ends)
    for height, (_, name, _, colour) in zip(heights, ends, strict=True):
        axis.annotate(name, (right, height - excess), (6, 0), xycoords=("data", "axes fraction"),
                      textcoords="offset points", fontsize=8, color=colour, va="center",
                      annotation_clip=False)  # fmt: skip


def svg(figure: Figure, label: str) -> str:
    """The figure as an inline svg element, with text as text, the page's colours and no external links."""
    matplotlib = need("matplotlib", "tasks")
    # ids must differ between the figures of a page, but not between runs
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": label}):
        written = image_bytes(figure, format="svg", transparent=True, dpi=160).decode()
    body = written[written.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.S)
    body = re.sub(r'<g id="[^"]*"', "<g", body)
    view = re.search(r'viewBox="[^"]*"', body)
    # a small figure is not enlarged to the width of the page, which is that of a figure of 8 inches
    most = f"max-width: {_PIXELS * figure.get_size_inches()[0]:.0f}px"
    opening = f'<svg role="img" aria-label="{label}" style="{most}" {view[0] if view else ""}>'
    body = opening + body[body.index(">") + 1 :]
    for name, (light, _) in PAGE.items():
        body = body.replace(f": {light}", f": var(--{name})")
    return body


def image_bytes(figure: Figure, **options: Any) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # names may be in scripts that matplotlib's font lacks; the browser's fonts have them
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(buffer, **options)
    return buffer.getvalue()
