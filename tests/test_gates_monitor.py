"""The training monitor: silent on healthy runs, by name where something is wrong, and without effect.

Warnings fail a test, so a run without an expected warning is silent.
"""

from functools import partial

import lightning
import numpy as np
import polars as pl
import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

import gatewise as gw
from gatewise.errors import GatewiseWarning, OptionError
from gatewise.gates import monitor as module_of_monitor
from gatewise.gates.callback import MonitorCallback
from gatewise.gates.monitor import Limits, Monitor
from gatewise.train.run import Run

STEPS = 40


class Sums(nn.Module):
    """A recurrent layer and a head that follow a running sum."""

    def __init__(self, rnn, units):
        super().__init__()
        self.rnn, self.head = rnn, nn.Linear(units, 1)

    def forward(self, x):
        return self.head(self.rnn(x)[0])


def train(model, monitor=None, steps=18):
    """Trains, and returns the loss."""
    torch.manual_seed(1)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(steps):
        x = torch.randn(8, STEPS, 2)
        loss = ((model(x) - x[..., :1].cumsum(1).tanh()) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        if monitor is not None:
            monitor.step()
        optimizer.step()
    return loss.item()


def layer(name="lstm", units=12, **options):
    torch.manual_seed(0)
    return gw.Recurrent(name, 2, units, batch_first=True, **options)


@pytest.mark.parametrize(
    "rnn",
    [
        lambda: layer(num_layers=2, bidirectional=True),
        lambda: layer("gru"),
        lambda: layer("rnn_tanh"),
        lambda: layer("nfg"),
        lambda: remembering(),
        lambda: nn.LSTM(2, 12, batch_first=True),
    ],
    ids=["lstm", "gru", "rnn", "never-forgets", "remembers", "torch"],
)
def test_a_healthy_run_is_silent(rnn):
    model = Sums(rnn := rnn(), 12 * (1 + rnn.bidirectional))
    monitor = Monitor(model, every=3)
    train(model, monitor)
    places = rnn.num_layers * (1 + rnn.bidirectional)
    assert [look.step for look in monitor.looks] == [
        k for k in range(0, 18, 3) for _ in range(places)
    ]
    assert monitor.warnings == []
    heading = f"{6 * places} looks at 1 recurrent modules in 18 steps"
    assert repr(monitor) == f"{heading}\nnothing to warn of"
    table = monitor.table()
    assert set(table["module"]) == {"rnn"}
    top = table["layer"] == rnn.num_layers - 1
    assert (table["reach"][top] > 3).all()
    assert (table["gain"][top] < 30).all()


def remembering():
    """Its forget gates are open nearly always, as in some initialisations."""
    rnn = layer()
    with torch.no_grad():
        rnn.bias_ih_l0[12:24] = 6.0
    return rnn


def forgetting(rnn):
    rnn.bias_ih_l0[12:24] = -8.0
    rnn.weight_hh_l0.mul_(0.01)


def growing(rnn):
    rnn.weight_hh_l0.copy_(1.4 * torch.eye(12))
    rnn.bias_ih_l0.fill_(0.1)


def stuck(rnn):
    rnn.bias_ih_l0[36:] = 30.0


def killed(rnn):
    rnn.bias_ih_l0[:4] = -100.0


FAULTS = {
    "vanish": ("lstm", forgetting, "gradients vanish over time: less than 1% .* of 40 steps"),
    "explode": ("rnn_relu", growing, "gradients explode over time: .* times the norm of the input"),
    "saturated": ("lstm", stuck, "'o' is saturated: 100% of its values"),
    "dead": ("rnn_relu", killed, "33% of the units are dead"),
}


@pytest.mark.parametrize(("name", "plant", "message"), FAULTS.values(), ids=FAULTS)
def test_a_planted_fault_is_named_once(name, plant, message):
    model = Sums(rnn := layer(name), 12)
    with torch.no_grad():
        plant(rnn)
    monitor = Monitor(model, every=2)
    with pytest.warns(GatewiseWarning, match=f"^rnn, layer 0, training step 4: {message}") as given:
        watch(model, monitor, 5)
    assert len(given) == len(monitor.warnings) == 1
    monitor = Monitor(model, every=1, limits=Limits(in_a_row=9))
    watch(model, monitor, 8)
    assert monitor.warnings == []


class Steps(nn.Module):
    """A loop over a step cell, as a layer."""

    def __init__(self, cell):
        super().__init__()
        self.cell = cell

    def forward(self, x):
        state, outputs = None, []
        for step in x.unbind(1):
            state = self.cell(step, state)
            outputs.append(state[0] if isinstance(state, tuple) else state)
        return torch.stack(outputs, 1), state


class Pixels(nn.Module):
    """A layer of images over numbers, each number an image of one pixel."""

    def __init__(self):
        super().__init__()
        self.images = gw.ConvLSTM(2, 12, 1, batch_first=True)

    def forward(self, x):
        return self.images(x[..., None, None])[0][..., 0, 0], None


OTHERS = {
    "cell": ("rnn.cell", lambda: Steps(nn.LSTMCell(2, 12))),
    "images": ("rnn.images", Pixels),
    "matrix": ("rnn", lambda: gw.MLSTM(2, 12, 2, batch_first=True)),
    "reversed": ("rnn", lambda: gw.Reversed(layer())),
}


@pytest.mark.parametrize(("place", "make"), OTHERS.values(), ids=OTHERS)
def test_step_cells_images_matrix_memories_and_pairs_are_looked_at_too(place, make):
    torch.manual_seed(0)
    model = Sums(make(), 12)
    monitor = Monitor(model, every=3)
    train(model, monitor)
    assert monitor.warnings == []
    assert [(look.place.module, look.step) for look in monitor.looks] == [
        (place, k) for k in range(0, 18, 3)
    ]
    assert all(len(look.norms) == STEPS and look.norms[5] > 0 for look in monitor.looks)
    monitor = Monitor(model, every=1)
    with torch.no_grad():  # all units are dead
        for weight in model.rnn.parameters():
            weight.zero_()
    with pytest.warns(GatewiseWarning) as given:
        watch(model, monitor, 3)
    said = [str(each.message) for each in given]
    assert said == monitor.warnings
    assert all(each.startswith(f"{place}, layer 0, training step 2: ") for each in said)
    assert any("100% of the units are dead" in each for each in said)
    assert any("gradients vanish over time" in each for each in said)


def test_a_loop_is_looked_at_up_to_a_call_whose_state_is_changed():
    class Dropped(Steps):
        def forward(self, x):
            state = None
            for t, step in enumerate(x.unbind(1)):
                state = self.cell(step, None if state is None else state * (t != 7) + 1e-3)
            return state, state

    class Whole(Steps):
        def forward(self, x):
            first = super().forward(x)[0]
            return first + super().forward(-x)[0], None

    for kind, steps in ((Dropped, 1), (Whole, STEPS)):
        model = Sums(kind(nn.GRUCell(2, 12)), 12)
        monitor = Monitor(model, every=1)
        watch(model, monitor, 1)
        (look,) = monitor.looks
        assert len(look.norms) == steps


def watch(model, monitor, steps):
    """Passes without updates."""
    for _ in range(steps):
        model(torch.randn(8, STEPS, 2)).square().mean().backward()
        monitor.step()


def test_looks_that_find_it_must_follow_each_other():
    model = Sums(rnn := layer(), 12)
    monitor = Monitor(model, every=1)
    for bias in (30.0, 30.0, 0.0, 30.0, 30.0):
        with torch.no_grad():
            rnn.bias_ih_l0[36:] = bias
        watch(model, monitor, 1)
    assert [look.saturated["o"] > 0.95 for look in monitor.looks] == [True, True, False, True, True]
    assert monitor.warnings == []


def test_values_that_are_not_finite_are_named_at_once():
    model = Sums(layer(), 12)
    monitor = Monitor(model, every=1)
    x = torch.randn(8, STEPS, 2)
    x[2, 7] = torch.nan
    model(x).sum().backward()
    with pytest.warns(
        GatewiseWarning, match="'i' of rnn, layer 0 is infinite or NaN at step 7 of seq"
    ):
        monitor.step()


def test_the_training_is_the_same_to_the_bit_with_and_without():
    """With dropout, zoneout and weight drop, so that random numbers count; hooks are gone in the end."""
    losses, weights = [], []
    for watched in (False, True):
        options = dict(dropout=0.2, recurrent_dropout=0.2, zoneout=0.1, weight_drop=0.1)
        model = Sums(layer(num_layers=2, **options), 12)
        torch.manual_seed(0)
        monitor = Monitor(model, every=2) if watched else None
        losses.append(train(model, monitor, 7))
        weights.append(torch.cat([w.detach().flatten() for w in model.parameters()]))
        assert model.training
    assert losses[0] == losses[1]
    assert torch.equal(*weights)
    assert len(monitor.looks) == 8
    monitor.close()
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_only_calls_of_training_are_looked_at_also_of_packed_sequences_in_time_major_layout():
    torch.manual_seed(0)
    rnn, lengths = nn.GRU(2, 5), torch.tensor([9, 6, 2])
    monitor = Monitor(rnn, every=1, sequences=2)
    with torch.no_grad():
        rnn(torch.full((3, 1, 2), torch.nan))  # a validation between two steps of training
    rnn(pack_padded_sequence(torch.randn(9, 3, 2), lengths))[1].sum().backward()
    monitor.step()
    (look,) = monitor.looks
    assert len(look.norms) == 9
    assert set(look.saturated) == {"r", "z", "n"}


def test_the_time_for_looking_is_a_share_of_the_whole(monkeypatch):
    """On a clock by which a look takes 2 seconds and a step takes 1."""
    now = [0.0]
    monkeypatch.setattr(module_of_monitor.time, "perf_counter", lambda: now[0])
    look = Monitor._look
    monkeypatch.setattr(
        Monitor, "_look", lambda *given: (look(*given), now.__setitem__(0, now[0] + 2))
    )
    model = Sums(layer(units=2), 2)
    monitor = Monitor(model, overhead=0.05)
    for _ in range(200):
        model(torch.randn(1, 3, 2)).sum().backward()
        now[0] += 1
        monitor.step()
    assert 3 <= len(monitor.looks) <= 6
    assert monitor.seconds == 2 * len(monitor.looks)
    assert monitor.seconds <= 0.05 * now[0] + 2


def test_as_a_callback_of_lightning():
    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.network = Sums(layer(), 12)
            with torch.no_grad():
                stuck(self.network.rnn)

        def training_step(self, batch, index):
            return self.network(batch).square().mean()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=1e-9)

    watcher = MonitorCallback(every=1)
    trainer = lightning.Trainer(
        max_epochs=1,
        callbacks=[watcher],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
    )
    batches = torch.utils.data.DataLoader(torch.randn(4, STEPS, 2), batch_size=1, num_workers=0)
    module = Module()
    with pytest.warns(GatewiseWarning, match=r"network.rnn, layer 0, training step 2: 'o' is sat"):
        trainer.fit(module, batches)
    assert len(watcher.monitor.looks) == 4
    assert not any(m._forward_pre_hooks for m in module.modules())


def test_as_an_option_of_a_fit(tmp_path, monkeypatch):
    """The warnings stand in the history of the model, also of a saved one; reports show them."""
    monkeypatch.setattr("gatewise.gates.callback.Monitor", partial(Monitor, every=1))
    steps = np.arange(200)
    data = pl.DataFrame({"date": steps, "load": np.sin(steps / 5)})
    options = dict(horizon=2, target="load", time="date", hidden=12, steps=24, learning_rate=50.0)
    model = gw.Forecaster(**options, layers=2)
    with pytest.warns(GatewiseWarning) as given:
        model.fit(data, validation=0.2, test=0, run=Run(quiet=True, monitor=True))
    warned = [str(each.message) for each in given]
    assert model.history_.warnings == warned
    assert len(warned) > 0
    assert all(each.startswith("network.lstm, layer ") for each in warned)
    model.save(tmp_path / "model")
    assert gw.load(tmp_path / "model").history_.warnings == warned


def test_what_cannot_be_monitored():
    with pytest.raises(OptionError, match="this Linear has no recurrent module"):
        Monitor(nn.Linear(2, 2))
    with pytest.raises(OptionError, match="overhead=1 must be a share between 0 and 1"):
        Monitor(layer(), overhead=1)
    with pytest.raises(OptionError, match="every must be a positive integer, not 0"):
        Monitor(layer(), every=0)
    assert Monitor(layer()).table() == {}
