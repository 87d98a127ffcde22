"""gw.convert: a model of torch's goes on as it was."""

import copy
import importlib.util
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

import gatewise as gw
import networks
from gatewise.errors import OptionError, ShapeError

CLOSE = dict(rtol=1e-6, atol=1e-6)
KINDS = {
    "LSTM": lambda: nn.LSTM(3, 5, 2, bidirectional=True, batch_first=True),
    "projected": lambda: nn.LSTM(3, 5, proj_size=2),
    "GRU": lambda: nn.GRU(3, 5, 2, bias=False),
    "RNN": lambda: nn.RNN(3, 5, nonlinearity="relu"),
    "LSTMCell": lambda: nn.LSTMCell(3, 5),
    "GRUCell": lambda: nn.GRUCell(3, 5, bias=False),
    "RNNCell": lambda: nn.RNNCell(3, 5, nonlinearity="relu"),
}
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections:UserWarning")  # torch's own


def inputs(module):
    return torch.randn(4, 3) if "Cell" in type(module).__name__ else torch.randn(4, 2, 3)


def first(result):
    return result if isinstance(result, torch.Tensor) else first(result[0])


def check_same(theirs, ours, *given):
    """Outputs and all gradients."""
    found = []
    for model in theirs, ours:
        model.zero_grad()
        output = first(model(*given))
        (output * torch.linspace(-1, 1, output.numel()).view_as(output)).sum().backward()
        found.append([output, *(p.grad for p in model.parameters())])
    assert len(found[0]) == len(found[1]) > 2
    torch.testing.assert_close(found[1][0], found[0][0], **CLOSE)
    torch.testing.assert_close(found[1][1:], found[0][1:], rtol=1e-4, atol=1e-5)


@pytest.mark.quick("LSTM")
@pytest.mark.parametrize("kind", KINDS)
def test_each_kind(kind):
    theirs = KINDS[kind]()
    ours = gw.convert(theirs)
    assert type(ours).__module__.startswith("gatewise")
    assert type(ours).__name__ == type(theirs).__name__
    assert list(ours.state_dict()) == list(theirs.state_dict())
    check_same(theirs, ours, inputs(theirs))
    theirs.load_state_dict(ours.state_dict())


@pytest.mark.parametrize("inplace", [True, False])
def test_the_same_weights_or_copies(inplace):
    theirs = nn.Sequential(nn.LSTM(3, 5))
    weights = list(theirs.parameters())
    ours = gw.convert(theirs, inplace=inplace)
    assert (ours is theirs) is inplace
    assert all((a is b) is inplace for a, b in zip(ours.parameters(), weights, strict=True))
    assert isinstance(theirs[0], gw.LSTM if inplace else nn.LSTM)


def test_an_optimizer_goes_on():
    model = nn.Sequential(nn.GRU(3, 5))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    gw.convert(model, inplace=True)
    before = model[0].weight_hh_l0.clone()
    model(torch.randn(4, 2, 3))[0].sum().backward()
    optimizer.step()
    assert not torch.equal(model[0].weight_hh_l0, before)


def test_mode_frozen_weights_and_type():
    theirs = nn.Sequential(nn.LSTM(3, 5, 2, dropout=0.5, dtype=torch.float64)).eval()
    theirs[0].weight_ih_l1.requires_grad_(False)
    ours = gw.convert(theirs)
    assert not ours[0].training
    assert not ours[0].weight_ih_l1.requires_grad
    assert ours[0].dropout == 0.5
    x = torch.randn(4, 2, 3, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x), **CLOSE)


def test_a_module_in_two_places_stays_one():
    rnn = nn.GRU(3, 3)
    ours = gw.convert(nn.ModuleDict({"a": rnn, "b": nn.ModuleList([rnn])}))
    assert ours["a"] is ours["b"][0]
    assert isinstance(ours["a"], gw.GRU)


def test_hooks_and_what_was_hung_on_the_module():
    theirs, seen = nn.LSTM(3, 5), []
    theirs.tag = "encoder"
    handle = theirs.register_forward_hook(lambda m, args, output: seen.append(type(m)))
    ours = gw.convert(theirs, inplace=True)
    ours(torch.randn(4, 3))
    assert seen == [gw.LSTM]
    assert ours.tag == "encoder"
    handle.remove()
    ours(torch.randn(4, 3))
    assert len(seen) == 1


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "LSTMCell"])
@pytest.mark.parametrize("how", ["weight_norm", "spectral_norm", "orthogonal"])
def test_parametrized(how, kind):
    theirs = KINDS[kind]()
    name = "weight_hh" if "Cell" in kind else "weight_hh_l0"
    getattr(parametrizations, how)(theirs, name)
    theirs.eval()
    ours = gw.convert(theirs)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert isinstance(ours, getattr(gw, kind))
    check_same(theirs, ours, inputs(KINDS[kind]()))
    assert isinstance(copy.deepcopy(ours), getattr(gw, kind))


@pytest.mark.parametrize("inplace", [True, False])
def test_weight_norm_as_it_was_and_pruning(inplace):
    theirs = nn.Sequential(nn.GRU(3, 5))
    prune.l1_unstructured(theirs[0], "weight_ih_l0", amount=0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = nn.Sequential(theirs, nn.Identity())
        nn.utils.weight_norm(theirs[0][0], "weight_hh_l0")
    x = torch.randn(4, 2, 3)
    expected = theirs[0](x)[0]
    names = list(theirs.state_dict())
    if (
        not inplace
    ):  # torch's deepcopy refuses weights that are results; a call without a tape has none
        with torch.no_grad():
            theirs[0](x)
    ours = gw.convert(theirs, inplace=inplace)
    assert list(ours.state_dict()) == names
    torch.testing.assert_close(ours[0](x)[0], expected, **CLOSE)
    with torch.no_grad():
        ours[0][0].weight_hh_l0_g.mul_(2)
    assert not torch.allclose(ours[0](x)[0], expected)


def test_what_is_derived_stays_and_is_named():
    class Own(nn.LSTM):
        pass

    model = nn.ModuleDict({"own": Own(3, 5), "plain": nn.GRU(3, 5)})
    with pytest.warns(UserWarning, match="'own' is a Own, derived from torch's LSTM, and is not"):
        ours = gw.convert(model)
    assert type(ours["own"]) is Own
    assert isinstance(ours["plain"], gw.GRU)


def test_without_numbers():
    with torch.device("meta"):
        model = nn.Sequential(nn.LSTM(3, 5))
    assert gw.convert(model)[0].weight_ih_l0.is_meta


def test_bad_input():
    with pytest.raises(OptionError, match=r"takes a torch\.nn\.Module, not dict"):
        gw.convert({})
    with pytest.raises(OptionError, match=r"this Linear has no torch\.nn\.LSTM, torch\.nn\.GRU"):
        gw.convert(nn.Linear(2, 3))
    model = nn.Sequential(nn.Linear(3, 3), nn.LSTM(3, 5))
    with torch.no_grad():
        model[1].weight_hh_l0[2, 3:] = float("nan")
    with pytest.raises(
        ShapeError, match=r"1\.weight_hh_l0 has 2 of 100 numbers that are not finite"
    ):
        gw.convert(model)
    with pytest.raises(OptionError, match="no backend 'gpu'"):
        gw.convert(nn.GRU(2, 3), backend="gpu")


def test_a_state_dict_that_does_not_fit_names_keys_and_shapes():
    layer = gw.LSTM(3, 5)
    state = nn.LSTM(4, 5).state_dict() | {"weight_ih_l1": torch.zeros(2)}
    with pytest.raises(RuntimeError) as error:
        layer.load_state_dict(state)
    for part in ("weight_ih_l0", "[20, 4]", "[20, 3]", "weight_ih_l1"):
        assert part in str(error.value)


# Published networks --------------------------------------------------------------------------------


def words(*shape, of=40):
    return torch.randint(of, shape)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(5)


def test_awd_lstm():
    theirs = networks.AWDLSTM()
    x = words(7, 3)
    theirs.eval()
    with torch.no_grad():
        expected, states = theirs(x)
    ours = gw.convert(theirs)
    assert isinstance(ours.rnns[1].rnn, gw.LSTM)
    with torch.no_grad():
        found, found_states = ours(x)
        torch.testing.assert_close((found, found_states), (expected, states), **CLOSE)
        torch.testing.assert_close(ours(x, found_states)[0], theirs(x, states)[0], **CLOSE)
    check_same(theirs, ours, x)
    results = []
    for model in theirs.train(), ours.train():
        torch.manual_seed(1)
        results.append(model(x)[0])
    torch.testing.assert_close(*results, **CLOSE)  # the same weights are dropped
    assert not torch.allclose(results[0], expected)


def test_bilstm_crf():
    theirs = networks.BiLSTMCRF()
    ours = gw.convert(theirs)
    assert isinstance(ours.lstm, gw.LSTM)
    check_same(theirs, ours, words(3, 9), words(3, 9, of=5))
    sentence = words(3, 9)
    assert torch.equal(ours.decode(sentence), theirs.decode(sentence))


def test_sequence_to_sequence_with_attention():
    theirs = networks.Seq2Seq()
    ours = gw.convert(theirs)
    assert isinstance(ours.encoder, gw.GRU)
    assert isinstance(ours.cell, gw.GRUCell)
    check_same(theirs, ours, words(3, 9, of=30), words(3, 5, of=30))


@pytest.mark.parametrize("graph", [True, False])
def test_voice_activity_chunk_by_chunk(graph):
    theirs = networks.VoiceActivity()
    ours = gw.convert(theirs)
    assert isinstance(ours.rnn, gw.LSTMCell)
    states = None, None
    with torch.set_grad_enabled(graph):
        for chunk in torch.randn(30, 2, 64):
            found = [m(chunk, s) for m, s in zip((theirs, ours), states, strict=True)]
            torch.testing.assert_close(found[1], found[0], **CLOSE)
            states = [state for _, state in found]


@pytest.mark.parametrize("training", [True, False])
def test_deep_speech(training):
    file = Path(__file__).parents[1] / "examples" / "convert.py"
    spec = importlib.util.spec_from_file_location("example", file)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    theirs = example.DeepSpeech(16, 12, 2, 7).train(training)
    ours = gw.convert(theirs)
    assert all(isinstance(layer.rnn, gw.GRU) for layer in ours.layers)
    given = torch.randn(3, 16, 40), torch.tensor([31, 40, 12])
    outputs = [model(*given) for model in (theirs, ours)]
    assert torch.equal(outputs[0][1], outputs[1][1])
    check_same(theirs, ours, *given)


@pytest.mark.parametrize("kind", KINDS)
def test_back_again(kind):
    ours = gw.convert(KINDS[kind]())
    theirs = gw.convert(ours, back=True)
    assert type(theirs) is type(KINDS[kind]())
    assert list(theirs.state_dict()) == list(ours.state_dict())
    check_same(theirs, ours, inputs(theirs))
    assert not gw.convert(ours.eval(), back=True).training


def test_back_within_a_model_keeps_the_parameters_in_place():
    rnn = gw.GRU(3, 5)
    model = nn.ModuleDict({"a": rnn, "b": nn.ModuleList([rnn])})
    weight = rnn.weight_ih_l0
    theirs = gw.convert(model, back=True, inplace=True)
    assert type(theirs["a"]) is nn.GRU
    assert theirs["a"] is theirs["b"][0]
    assert theirs["a"].weight_ih_l0 is weight
    assert theirs["a"]._flat_weights[0] is weight


def test_what_torch_lacks_is_said():
    with pytest.raises(OptionError, match="'0' has the cell 'mgu', which torch does not have"):
        gw.convert(nn.Sequential(gw.Recurrent("mgu", 3, 5)), back=True)
    with pytest.raises(OptionError, match=r"this LSTM has zoneout=.*which torch's layers do not"):
        gw.convert(gw.LSTM(3, 5, zoneout=0.1), back=True)
    with pytest.raises(OptionError, match=r"this LSTM has weight_drop=0\.5"):
        gw.convert(gw.LSTM(3, 5, weight_drop=0.5), back=True)
    with pytest.raises(OptionError, match="no layer of gatewise to convert back"):
        gw.convert(nn.LSTM(3, 5), back=True)
