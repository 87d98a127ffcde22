"""Options that are written once: what follows from an annotation, a default and a docstring's line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytest

from gatewise.arguments import Count, Kind, Number, Probability, options_of
from gatewise.cli import main
from gatewise.cli.parsing import Parser, add_options, flag_of, given_of, with_flags
from gatewise.errors import OptionError
from gatewise.tasks.registry import TASKS, naming, sources_of, task_of
from gatewise.train.run import Run


@dataclass
class Base:
    """A first line.

    Args:
        size: how large, in ``units``; half
            of it is 50 %.
        first, second: two of a kind.
    """

    size: Count
    first: Probability = 0.5
    second: Number | None = None
    way: Literal["up", "down"] = "up"
    on: bool = False
    off: bool = True
    names: Annotated[Any, Kind(many="append")] = ()
    other: object = None


def function(size: Count, *, way: Literal["up", "down"] = "up", data: Any = None) -> None:
    """A first line.

    Args:
        size: how large.
        way: which one.

    Returns:
        way: nothing.
    """


def test_options_are_the_annotated_parameters_with_their_lines():
    found = options_of(Base)
    assert list(found) == ["size", "first", "second", "way", "on", "off", "names"]
    assert found["size"].help == "how large, in ``units``; half of it is 50 %."
    assert found["first"].help == found["second"].help == "two of a kind."
    assert found["size"].required
    assert not found["first"].required
    assert {name: each.default for name, each in options_of(function).items()}["way"] == "up"
    assert options_of(function)["way"].help == "which one."


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("size", 3, 3),
        ("second", None, None),
        ("second", 2, 2.0),
        ("on", 1, True),
        ("way", "up", "up"),
    ],
)
def test_values_are_brought_to_their_kind(name, value, expected):
    found = options_of(Base)[name].checked(value)
    assert (found, type(found)) == (expected, type(expected))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("size", 3.0, r"size must be a positive integer, not 3\.0"),
        ("way", "upp", r"way must be one of 'up', 'down', not 'upp' \(did you mean 'up'\?\)"),
        ("first", None, "first must be a probability from 0 to 1, not None"),
    ],
)
def test_other_values_are_refused_by_name(name, value, message):
    with pytest.raises(OptionError, match=message):
        options_of(Base)[name].checked(value)


def test_flags_follow_and_what_is_not_given_is_absent():
    parser = Parser(prog="x")
    options = options_of(Base)
    add_options(parser, options)
    given = parser.parse_args(["--size", "4", "--on", "--names", "a", "--names", "b"])
    assert given_of(given, options) == {"size": 4, "on": True, "names": ["a", "b"]}
    off = given_of(parser.parse_args(["--size", "4", "--no-off"]), options)
    assert off == {"size": 4, "off": False}
    assert given_of(parser.parse_args(["--size", "4", "--off"]), options)["off"] is True
    text = " ".join(parser.format_help().split())
    assert "--off, --no-off (default: --off)" in text
    assert "--no-on" not in text
    assert "how large, in units; half of it is 50 %." in text
    assert "two of a kind. (default: 0.5)" in text
    assert "--size N" in text
    assert "--way up|down" in text
    with pytest.raises(OptionError, match="--size: expected an integer below"):
        parser.parse_args(["--size", "four"])
    with pytest.raises(OptionError, match="required: --size"):
        parser.parse_args([])


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("give missing='mask', or stop", "give --missing mask, or stop"),
        ("give series= (--series), the column", "give --series, the column"),
        ("give gaps='mask' (--gaps mask) to", "give --gaps mask to"),
        ("give gaps= (--gaps WAY), a word", "give --gaps WAY, a word"),
        (
            "test=0.5 of 3 series, or a smaller test=.",
            "--test 0.5 of 3 series, or a smaller --test.",
        ),
        ("bidirectional=True or bidirectional=False", "--bidirectional or --no-bidirectional"),
        ("quantiles=(0.1, 0.5) has none", "quantiles=(0.1, 0.5) has none"),
        ("--test=x and latest=3 and size=3", "--test=x and latest=3 and size=3"),
        ("the test is x = 3", "the test is x = 3"),
        ("--test (test=0) needs a share", "--test needs a share"),
        ("without --missing (missing=None), or --x (y=2)", "without --missing, or --x (y=2)"),
    ],
    ids=range(11),
)
def test_messages_name_the_flags_at_the_command_line(message, expected):
    names = ("missing", "series", "gaps", "test", "bidirectional", "quantiles")
    assert with_flags(message, {name: flag_of(name) for name in names}) == expected
    assert with_flags(message, {}) == message


def test_what_is_for_python_alone_is_not_in_the_help():
    @dataclass
    class Given:
        """A first line.

        Args:
            cell: the name of a cell. In Python also one made with :func:`gatewise.cell`. It is fast.
            names: columns. In Python a list of names, or None.
        """

        cell: str = "lstm"
        names: Annotated[Any, Kind(many="append")] = ()

    parser = Parser(prog="x")
    add_options(parser, options_of(Given))
    text = " ".join(parser.format_help().split())
    assert "the name of a cell. It is fast. (default: lstm)" in text
    assert "columns. (repeatable)" in text
    assert "Python" not in text


CLASSES = [(name, source) for name in TASKS for source in sources_of(name)]


@pytest.mark.parametrize(("name", "source"), CLASSES)
def test_the_help_of_a_task_has_nothing_for_python_alone(name, source, capsys):
    own = task_of(name, source)
    assert main(["fit", name, *naming(source).split(), "--help"]) == 0
    shown = capsys.readouterr().out
    text = " ".join(shown.split())
    for words in ("Python", "gatewise.cell", "None", "arrays"):
        assert words not in text, words
    usage = text.partition("positional arguments")[0]
    for option in (*own.needed_by_files, "out"):
        assert f"[{flag_of(option)}" not in usage
    groups = (own.options(), options_of(own.fit))
    always = {option for group in groups for option, each in group.items() if each.required}
    assert text.count("(required)") == len({*own.needed_by_files, "out"} | always)


@pytest.mark.parametrize(("name", "source"), CLASSES)
def test_every_option_of_a_task_has_a_line_of_help_and_none_has_two_flags(name, source):
    task = task_of(name, source)
    groups = (task.options(), options_of(task.fit), options_of(Run))
    texts = [(option, each.help) for group in groups for option, each in group.items()]
    assert [option for option, text in texts if not text] == []
    flags = [flag_of(option) for option, _ in texts]
    assert len(set(flags)) == len(flags)
    assert set(task.options()) == set(task._get_param_names())
