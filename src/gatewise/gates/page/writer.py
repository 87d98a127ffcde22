"""Writes a page that shows the gates of sequences: one HTML file that needs no network."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from html import escape
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from gatewise.atomic import write_atomically
from gatewise.cells.language import Cell
from gatewise.emit.diagram import STYLE, svg
from gatewise.errors import CellError
from gatewise.gates.page.record import PageData, Places, packed
from gatewise.gates.page.strips import Strip, numbers
from gatewise.nn.trace import Trace

# What the page may load: nothing from elsewhere.
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' data:; style-src 'unsafe-inline'; img-src data:"
)
# in the order in which they need each other
_LIBRARIES = (
    "array",
    "color",
    "interpolate",
    "format",
    "time",
    "time-format",
    "scale",
    "selection",
)
_MODULES = (
    *("colours", "store", "data", "heat", "strips", "alike", "panels"),
    *("diagram", "tracks", "controls", "what-if", "live", "main"),
)


def write_page(
    path: str | Path,
    traces: Trace | Mapping[str, Trace],
    *,
    title: str,
    strips: Sequence[Strip | None] | None = None,
    predictions: Sequence[Strip | None] | None = None,
    labels: Sequence[str] | None = None,
    step_labels: Sequence[Sequence[str] | None] | None = None,
    cells: Mapping[str, Cell | None] | None = None,
    history: Mapping[str, Sequence[float]] | None = None,
    horizon: Mapping[str, Sequence[float]] | None = None,
    places: Places | None = None,
    members: int = 1,
) -> Path:
    """Writes the page and returns its path.

    Args:
        path: the HTML file. It is replaced by one rename.
        traces: for each recurrent module of a model its trace, or the trace of one layer: B sequences.
            Modules that ran over different steps need ``places``.
        title: the heading.
        strips: for each sequence what is drawn above its heat maps; see :mod:`gatewise.gates.page.strips`.
        predictions: for each sequence what is drawn below.
        labels: a name for each sequence.
        step_labels: for each sequence the names of its steps, such as dates, or None.
        cells: for each module its cell, for its diagram and time scales. Traces that know their cell need none.
        history: the losses "train" and "validation" of each round.
        horizon: for each layer the size of the gradient of the output with respect to the input k steps before.
        places: for each sequence the names of the modules that read it, and its row in their traces. If not given,
            all modules read all sequences.
        members: the number of networks of an ensemble, of which the page shows the first.

    Raises:
        OptionError: there is no trace, or a sequence without steps.
        ShapeError: strips, labels or lengths do not fit the sequences.
        ModelFileError: the file cannot be written.
    """
    path = Path(path)
    page = page_of(
        PageData(traces, cells or {}, places), title, strips, predictions, labels, step_labels,
        history=history, horizon=horizon, members=members,
    )  # fmt: skip
    write_atomically(path.parent, {path.name: page.encode()})
    return path


def page_of(data: PageData, title: str, *around: Any, **curves: Any) -> str:
    """The page as HTML with its numbers; the arguments are those of :func:`write_page`."""
    record, every = recorded(data, *around, **curves)
    block, record["precision"] = packed(every)
    digits = "three digits" if record["precision"] == "float16" else "float32"
    begin = 'import { start } from "gatewise/main";\nstart();'
    return _document(data, title, record, block, digits, _POLICY, begin)


def served_page_of(
    data: PageData, title: str, *around: Any, **curves: Any
) -> tuple[str, np.ndarray]:
    """The page as HTML without its numbers, and the numbers, which it requests from its server. The arguments
    are those of :func:`write_page`."""
    record, every = recorded(data, *around, **curves)
    begin = 'import { start } from "gatewise/main";\nimport { live } from "gatewise/live";\nstart(live);'
    policy = f"{_POLICY}; connect-src 'self'"
    return _document(data, title, record, "", "float32", policy, begin), every


def recorded(
    data: PageData,
    strips: Sequence[Strip | None] | None = None,
    predictions: Sequence[Strip | None] | None = None,
    labels: Sequence[str] | None = None,
    step_labels: Sequence[Sequence[str] | None] | None = None,
    *,
    history: Mapping[str, Sequence[float]] | None = None,
    horizon: Mapping[str, Sequence[float]] | None = None,
    members: int = 1,
) -> tuple[dict[str, Any], np.ndarray]:
    """The record of a page, and its numbers; the arguments are those of :func:`write_page`."""
    count = len(data.lengths)
    record, every = data.record(
        strips if strips is not None else [None] * count,
        predictions if predictions is not None else [None] * count,
        labels if labels is not None else [f"sequence {k}" for k in range(count)],
        step_labels if step_labels is not None else [None] * count,
    )
    record["history"] = history and {name: numbers(each) for name, each in history.items()}
    record["members"] = members
    record["horizon"] = horizon and {"lines": [[n, numbers(each)] for n, each in horizon.items()]}
    return record, every


def _document(
    data: PageData,
    title: str,
    record: dict[str, Any],
    block: str,
    digits: str,
    policy: str,
    begin: str,
) -> str:
    count = len(data.lengths)
    total = f"{count} sequence{'s' if count > 1 else ''}, {sum(data.lengths):,} steps"
    ensemble = f"The gates are those of the first of {record['members']} networks; the prediction is their mean. "
    footer = (
        f"{total}. {ensemble if record['members'] > 1 else ''}Numbers are those of the trace ({digits}). "
        f"Statistics are of the sequences in this page. "
    )
    return _filled(
        {
            "title": escape(title),
            "policy": policy,
            "begin": begin,
            "version": escape(version("gatewise")),
            "style": _read("page.css") + STYLE,
            "footer": escape(f"{footer}Written by gatewise {version('gatewise')}."),
            "diagrams": "\n".join(_diagram(k, cell) for k, cell in enumerate(data.cells)),
            "record": json_text(record),
            "numbers": block,
            "libraries": _libraries(),
            "modules": _import_map(),
        }
    )


def json_text(value: Any) -> str:
    """JSON that may stand in a script element: no text in it can end the element or begin a comment."""
    text = json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _filled(values: Mapping[str, str]) -> str:
    """The template with its values. What a value contains is not filled again."""
    return re.sub(r"\{\{(\w+)\}\}", lambda found: values[found[1]], _read("page.html"))


def _diagram(number: int, cell: Cell) -> str:
    try:
        drawn = svg(cell, page=True)
    except CellError:  # too large for a diagram: the page says that there is none
        return ""
    return f'<template id="diagram-{number}">{drawn}</template>'


@cache
def _libraries() -> str:
    sources = (_read(f"vendor/d3-{name}.min.js") for name in _LIBRARIES)
    return "\n".join(f"<script>{source}</script>" for source in sources)


@cache
def _import_map() -> str:
    """The page's modules by name. A file has no folder from which they could be imported."""
    urls = {}
    for name in _MODULES:
        source = base64.b64encode(_read(f"{name.replace('-', '_')}.js").encode()).decode("ascii")
        urls[f"gatewise/{name}"] = f"data:text/javascript;base64,{source}"
    return json.dumps({"imports": urls})


@cache
def _read(name: str) -> str:
    return (files("gatewise.gates.page") / name).read_text("utf-8")
