"""A page of gates that its reader can question: the network runs again with changes of input, units and gates."""

from __future__ import annotations

import json
import struct
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
from torch import nn

from gatewise.errors import OptionError, ShapeError
from gatewise.gates.ensemble import in_each_member, member_count
from gatewise.gates.interventions import Intervention, clamp
from gatewise.gates.page.record import PageData
from gatewise.gates.page.shown import InputEdit, Shown
from gatewise.gates.page.writer import json_text, served_page_of
from gatewise.options import short_repr

Record = Mapping[str, Any]

_MOST_EDITS = 1000
_LARGEST = float(np.finfo(np.float32).max)


class LivePage:
    """A page, its numbers, and the answers to the changes that its reader makes.

    Attributes:
        html: the page without its numbers.
        numbers: the numbers as bytes of float32, in little-endian order.
    """

    def __init__(self, network: nn.Module, shown: Shown, *, title: str, **curves: Any) -> None:
        self._network, self._shown = network, shown
        self._data = PageData(shown.traces, {}, shown.places)
        self.html, numbers = served_page_of(
            self._data, title, shown.strips, shown.predictions, shown.labels, shown.step_labels,
            members=member_count(network), **curves,
        )  # fmt: skip
        self.numbers = memoryview(numbers.astype("<f4", copy=False).tobytes())
        self._one_at_a_time = threading.Lock()  # an intervention changes the network for a while

    def answer(self, request: Any) -> bytes:
        """The sequence of a request with its edits.

        Args:
            request: ``{"sequence": k, "edits": [...]}``, decoded from JSON. An edit is
                ``{"kind": "value", "line", "at", "value"}``, ``{"kind": "word", "at", "word"}``,
                ``{"kind": "note", "at", "pitch", "voice", "on"}``, or
                ``{"kind": "clamp", "part", "name", "unit", "first", "last", "value", "all_members"}``, where a unit of
                None means all of them. With ``all_members`` the other networks of an ensemble have the change too.

        Returns:
            4 bytes with the length of what follows: JSON with ``strip`` and ``prediction``. After it the numbers
            of the sequence, in the order of the page.

        Raises:
            OptionError: the request is not of this form, or asks for what is not there.
        """
        given = _mapping(request, "the request")
        sequence = _index(given, "sequence", len(self._shown.labels))
        edits = given.get("edits")
        if not isinstance(edits, list) or len(edits) > _MOST_EDITS:
            raise OptionError(f"edits must be a list of at most {_MOST_EDITS} edits")
        inputs, clamps = self._parsed(sequence, [_mapping(each, "an edit") for each in edits])
        if self._shown.edited is None:
            raise OptionError("the sequences of this page cannot be changed")
        with self._one_at_a_time, ExitStack() as stack:
            for each in clamps:
                stack.enter_context(each)
            changed = self._shown.edited(sequence, inputs)
        return self._packed(sequence, changed)

    def _parsed(
        self, sequence: int, edits: Sequence[Record]
    ) -> tuple[list[InputEdit], list[Intervention]]:
        inputs: list[InputEdit] = []
        clamps: list[Intervention] = []
        for edit in edits:
            kind = edit.get("kind")
            if kind == "clamp":
                clamps += self._clamps(sequence, edit)
            elif kind == "word":
                if not isinstance(word := edit.get("word"), str):
                    raise OptionError(f"word must be a text, not {word!r}")
                inputs.append(InputEdit(_index(edit, "at"), word))
            elif kind == "value":
                value, line = _number(edit, "value"), _index(edit, "line")
                inputs.append(InputEdit(_index(edit, "at"), value, line))
            elif kind == "note":
                at, voice, pitch = (_index(edit, name) for name in ("at", "voice", "pitch"))
                inputs.append(InputEdit(at, _flag(edit, "on"), voice, pitch))
            else:
                raise OptionError(
                    f"an edit has the kind 'value', 'word', 'note' or 'clamp', and not {kind!r}"
                )
        return inputs, clamps

    def _clamps(self, sequence: int, edit: Record) -> list[Intervention]:
        part = self._data.parts[_index(edit, "part", len(self._data.parts))]
        if part not in self._data.parts_of(sequence):
            raise OptionError(f"the layer {part[0]!r} does not read this sequence")
        module, layer, direction = part
        steps = self._data.lengths[sequence]
        first, last = _index(edit, "first", steps), _index(edit, "last", steps)
        begin = self._shown.begins[sequence] if self._shown.begins else 0
        unit = None if edit.get("unit") is None else _index(edit, "unit")
        everywhere = "all_members" in edit and _flag(edit, "all_members")
        return [
            clamp(
                self._network,
                each,
                str(edit.get("name")),
                to=_number(edit, "value"),
                units=unit,
                steps=range(begin + first, begin + last + 1),
                layer=layer,
                direction=direction,
            )
            for each in (in_each_member(self._network, module) if everywhere else [module])
        ]

    def _packed(self, sequence: int, changed: Shown) -> bytes:
        data = PageData(changed.traces, {}, changed.places)
        parts = self._data.parts_of(sequence)
        if data.lengths != [self._data.lengths[sequence]] or data.parts_of(0) != parts:
            raise ShapeError("the changed sequence has other layers or another number of steps")
        strips = {"strip": changed.strips[0], "prediction": changed.predictions[0]}
        head = json_text({name: strip and strip.record() for name, strip in strips.items()})
        text = head.encode()
        text += b" " * (-len(text) % 4)  # the numbers begin at a multiple of 4 bytes
        values = [
            value.astype("<f4", copy=False).tobytes()
            for part in parts
            for value in data.values(part, 0).values()
        ]
        return b"".join([struct.pack("<I", len(text)), text, *values])


def _mapping(given: Any, what: str) -> Record:
    if not isinstance(given, dict):
        raise OptionError(f"{what} must be a JSON object, not {type(given).__name__}")
    return given


def _index(given: Record, name: str, count: int | None = None) -> int:
    value = given.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise OptionError(f"{name} must be an integer from 0, not {value!r}")
    if count is not None and value >= count:
        raise OptionError(f"no {name} {value}: there are {count}, counted from 0")
    return value


def _number(given: Record, name: str) -> float:
    value = given.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise OptionError(f"{name} must be a number, not {value!r}")
    if not abs(value) <= _LARGEST:  # NaN too
        raise OptionError(f"{name} must be a finite number of float32, not {short_repr(value)}")
    return float(value)


def _flag(given: Record, name: str) -> bool:
    value = given.get(name)
    if not isinstance(value, bool):
        raise OptionError(f"{name} must be true or false, not {value!r}")
    return value


def decoded(body: bytes) -> Any:
    """The JSON of a request.

    Raises:
        OptionError: it is none.
    """
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise OptionError(f"the request is not JSON: {error}") from error
