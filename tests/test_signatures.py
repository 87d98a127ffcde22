"""The constructors and results that an editor shows."""

import inspect
import re
from importlib.resources import files
from typing import Any, get_overloads, get_type_hints

import numpy as np
import polars as pl
import pytest
import torch

import gatewise as gw
import typed_use
from gatewise.data.table import Frame
from gatewise.errors import OptionError
from gatewise.nn.trace import Trace
from gatewise.tasks.base import Task
from shape_checks import names

LAYERS = {"LSTM": {"forget_bias"}, "GRU": set(), "RNN": {"nonlinearity"}}
CELLS = {"LSTMCell": set(), "GRUCell": set(), "RNNCell": {"nonlinearity"}}


def arguments(of: type) -> dict[str, inspect.Parameter]:
    found = dict(inspect.signature(of).parameters)
    assert not {p.kind for p in found.values()} & {
        inspect.Parameter.VAR_KEYWORD,
        inspect.Parameter.VAR_POSITIONAL,
    }
    return found


@pytest.mark.parametrize("name", [*LAYERS, *CELLS])
def test_a_named_layer_lists_every_argument_of_its_base(name):
    base = gw.Recurrent if name in LAYERS else gw.RecurrentCell
    ours, bases = arguments(getattr(gw, name)), arguments(base)
    assert bases.keys() - {"cell"} == ours.keys() - (LAYERS | CELLS)[name]
    for argument in bases.keys() - {"cell"}:
        assert ours[argument].default == bases[argument].default, argument
        assert ours[argument].annotation == bases[argument].annotation, argument


OTHER = dict(
    num_layers=2, bias=False, batch_first=True, dropout=0.25, bidirectional=True, proj_size=2,
    backend="reference", layer_norm=True, recurrent_dropout=0.5, zoneout=0.125, weight_drop=0.375,
    locked_dropout=True, connect="residual", recurrent_blocks=2,
)  # fmt: skip


HANDED_ON = [
    pytest.param(name, option, id=f"{name}-{option}")
    for name in (*LAYERS, *CELLS)
    for option in (*OTHER, "learn_initial")
    if option in inspect.signature(getattr(gw, name)).parameters
    and (option != "proj_size" or name == "LSTM")
]


@pytest.mark.parametrize(("name", "option"), HANDED_ON)
def test_every_option_is_handed_on(name, option):
    given = OTHER.get(option, True)
    beside = {"num_layers": 2} if option in ("dropout", "connect") else {}
    layer = getattr(gw, name)(3, 4, **beside, **{option: given})
    assert getattr(layer, option) in (given, (given,) * len(layer.cell.state))


SIZES = {"cell", "input_size", "hidden_size", "num_layers", "device", "dtype", "backend"}


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize("option", sorted(arguments(gw.Recurrent).keys() - SIZES))
def test_an_option_acts_on_every_way_of_a_call(option):
    """With gradients and without, which a backend may run in one call; in a stream; converted back to torch's
    layer. Where an option cannot act it is refused."""
    assert option in (*OTHER, "learn_initial", "block_size"), "give the option a value in OTHER"
    value = {"block_size": 2, "learn_initial": True, "batch_first": False}.get(
        option, OTHER.get(option)
    )
    several = {"num_layers": 2} if option in ("dropout", "connect") else {}
    cell = "lstm_1997" if option == "block_size" else "lstm"
    layer = gw.Recurrent(cell, 4, 4, **several, **{option: value}).eval()
    for parameter in layer.parameters():
        torch.nn.init.uniform_(parameter, -1, 1)
    x = torch.randn(5, 1, 4)
    wanted = layer(x)[0].detach()
    with torch.no_grad():
        torch.testing.assert_close(layer(x)[0], wanted)
    if not layer.bidirectional and option != "connect":
        stream = layer.stream()
        steps = [torch.as_tensor(stream.step(row.numpy())).clone() for row in x]
        torch.testing.assert_close(torch.stack(steps), wanted)
    named = gw.LSTM(4, 4, **several, **{option: value}).eval() if cell == "lstm" else layer
    try:
        back = gw.convert(torch.nn.Sequential(named), back=True)
    except OptionError:
        return
    torch.testing.assert_close(back(x)[0], named(x)[0])


@pytest.mark.parametrize("name", [*LAYERS, *CELLS])
def test_device_and_type_are_handed_on(name):
    layer = getattr(gw, name)(3, 4, device="meta", dtype=torch.float64)
    assert {(p.device.type, p.dtype) for p in layer.parameters()} == {("meta", torch.float64)}


def test_a_layers_text_shows_every_option_that_is_not_as_by_default():
    apart = {"cell", "input_size", "hidden_size", "device", "dtype", "backend"}
    for option in arguments(gw.Recurrent).keys() - apart:
        value = OTHER.get(option, True) if option != "block_size" else 2
        cell = "lstm_1997" if option == "block_size" else "lstm"
        beside = {"num_layers": 2} if option in ("dropout", "connect") else {}
        shown = repr(gw.Recurrent(cell, 3, 4, **beside, **{option: value}))
        assert f"{option}=" in shown, shown
    assert repr(gw.LSTM(3, 4)) == "LSTM(3, 4)"


@pytest.mark.parametrize("name", [*LAYERS, *CELLS, "Recurrent", "RecurrentCell"])
def test_an_unknown_argument_is_an_error_of_the_class_itself(name):
    cell = ("lstm",) if name.startswith("Recurrent") else ()
    with pytest.raises(TypeError, match=rf"^{name}\.__init__\(\) got an unexpected .* 'foo'$"):
        getattr(gw, name)(*cell, 3, 4, foo=1)


def test_results_have_types():
    forms = get_overloads(gw.Recurrent.forward)
    results = [get_type_hints(form, form.__globals__ | names())["return"] for form in forms]
    assert len(results) == 3
    assert Trace in results[1].__args__


def returned(method) -> list[object]:
    """The result of each overload of a task's method."""
    names = method.__globals__ | {"pl": pl}
    return [get_type_hints(form, names)["return"] for form in get_overloads(method)]


def test_predictions_and_loaded_models_have_types():
    assert returned(gw.Forecaster.predict) == [Frame, pl.DataFrame]
    for kind in (gw.Classifier, gw.Regressor):
        assert returned(kind.predict) == [pl.DataFrame, np.ndarray, Any]
    assert get_type_hints(gw.load)["return"] is Task


@pytest.mark.parametrize("use", [typed_use.layers, typed_use.attention, typed_use.models])
def test_what_a_type_checker_reads_runs(use):
    """``make check`` compares the types; here the same code runs."""
    use(torch.randn(5, 2, 4))


def test_the_steps_that_a_type_checker_reads_run():
    typed_use.steps(torch.randn(2, 4))


def test_every_module_says_what_its_call_returns():
    """torch declares that a call returns Any. Only a type checker reads the declaration."""
    for name in gw.__all__:
        kind = getattr(gw, name)
        if not (isinstance(kind, type) and issubclass(kind, torch.nn.Module)):
            continue
        written = "".join(
            inspect.getsource(each)
            for each in kind.__mro__
            if issubclass(each, torch.nn.Module) and each.__module__.startswith("gatewise.")
        )
        assert re.search(r"^        __call__(: | = forward)", written, re.MULTILINE), name


def test_type_checkers_may_read_the_package():
    assert files("gatewise").joinpath("py.typed").is_file()
