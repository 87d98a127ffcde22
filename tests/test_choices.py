"""Choosing a backend: a record, made once for equal calls."""

from dataclasses import FrozenInstanceError, fields

import pytest
import torch

import gatewise as gw
from gatewise.backends import cpu, reference
from gatewise.backends.contract import Choice, Masks, Spec, Weights
from gatewise.backends.registry import choose
from gatewise.cells.language import tanh
from gatewise.errors import BackendError

X = torch.zeros(5, 2, 3)


def counted(monkeypatch, backend):
    """What ``backend`` is asked from here on."""
    asked, supports = [], backend.supports
    monkeypatch.setattr(backend, "supports", lambda spec: asked.append(spec) or supports(spec))
    return asked


def test_a_choice_is_a_record_of_which_the_sentence_is_made():
    layer = gw.LSTM(3, 4)
    choice = layer.choose_backend(X)
    assert (choice.backend, choice.spec.cell, choice.spec.hidden_size) == ("cpu", layer.cell, 4)
    assert choice.spec.differentiated
    assert layer.explain_backend(X) == str(choice) == f"cpu: {choice.reason}"
    with pytest.raises(FrozenInstanceError):
        choice.backend = "aten"


def test_equal_calls_are_asked_about_once(monkeypatch):
    asked = counted(monkeypatch, cpu)
    layers = [gw.GRU(3, 4, num_layers=3), gw.GRU(3, 4)]
    for layer in layers:
        layer(X)
        layer(X, lengths=[5, 2])  # lengths change no choice
    # the short way of a call asks for all layers before it is known whether there is a gradient
    assert [(spec.input_size, spec.differentiated) for spec in asked] == [
        (3, False),
        (3, True),
        (4, True),
    ]
    layers[0].choose_backend(X, reset=torch.zeros(5, 2, dtype=torch.bool))
    assert [spec.masks for spec in asked] == [(), (), (), ("reset",)]


def test_a_refusal_is_kept_too(monkeypatch):
    asked = []
    monkeypatch.setattr(reference, "supports", lambda spec: asked.append(spec) or "has a bad day")
    layer = gw.LSTM(3, 4, backend="reference")
    for _ in range(3):
        with pytest.raises(BackendError, match="'reference' was asked for, but it has a bad day"):
            layer(X)
    assert len(asked) == 1


def test_equal_cells_of_other_names_have_reasons_of_their_own():
    def named(name):
        return gw.cell(gates="u", name=name)(lambda a, s: dict(h=tanh(a.u)))

    one, other = named("one"), named("other")
    assert one == other
    for cell in (one, other):
        with pytest.raises(BackendError, match=f"not '{cell.name}'"):
            choose("aten", cell=cell, input_size=3, hidden_size=4)


def test_what_is_transformed_is_another_choice():
    layer = gw.LSTM(3, 4)
    assert layer.choose_backend(X).backend == "cpu"
    found = []
    torch.func.vmap(lambda x: found.append(layer.choose_backend(x)) or x)(X[None])
    assert [choice.backend for choice in found] == ["reference"]
    assert layer.choose_backend(X).backend == "cpu"


def test_the_spec_holds_no_mask_and_each_option_once():
    names = {field.name for field in fields(Spec)}
    assert not names & {*Masks._fields} - {"masks"}
    assert not names & {*Weights._fields}
    assert {field.name for field in fields(Choice) if field.compare} == {
        "backend",
        "spec",
        "reason",
    }


@pytest.mark.parametrize("cell", ["lstm", "peephole", "slstm"])
def test_weights_come_back_from_their_list(cell):
    layer = gw.Recurrent(cell, 3, 4, bias=False)
    weights = layer._weights("_l0")
    again = Weights.from_list(weights.listed(layer.cell), layer.cell)
    assert all(one is other for one, other in zip(again[:-1], weights[:-1], strict=True))
    assert [*again.per_unit] == [*layer.cell.params]
    assert all(again.per_unit[name] is weights.per_unit[name] for name in layer.cell.params)


def test_masks_come_back_from_their_list():
    for zoneout in (None, (torch.zeros(1), torch.ones(1))):
        masks = Masks(None, torch.zeros(2), None, zoneout)
        assert all(
            a is b for a, b in zip(Masks.from_list(masks.listed())[:3], masks[:3], strict=True)
        )
        assert Masks.from_list(masks.listed()).zoneout == zoneout


def test_a_layers_configuration_never_changes():
    layer = gw.LSTM(3, 4)
    with pytest.raises(FrozenInstanceError):
        layer.config.hidden_size = 5
    with pytest.raises(AttributeError):
        layer.hidden_size = 5
    layer.dropout = 0.5  # of calls, not of parameters
    assert layer.config == gw.LSTM(3, 4).config
