"""The music model: its outputs, baselines, samples, and the task with its command line."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import gatewise as gw
from gatewise.cli import main
from gatewise.data.music.events import Events
from gatewise.data.music.midi import midi_bytes, read_midi
from gatewise.data.music.places import GridClock
from gatewise.data.music.steps import Voices
from gatewise.data.music.tune import LOWEST, TICKS, Note, Tune, shares
from gatewise.errors import DataError, GatewiseWarning, ModelFileError, OptionError
from gatewise.models.chords import UNKNOWN, ChainedVoices, IndependentNotes, NadeNotes, Symbols
from gatewise.models.music import MusicNetwork, MusicShape
from gatewise.tasks.music import training
from gatewise.tasks.music.baselines import NGrams
from gatewise.tasks.music.encoding import EncodedTune, in_plain_key
from gatewise.tasks.music.sampling import Sampler, harmonised
from gatewise.tasks.music.training import TuneBatches, Windows
from gatewise.train.run import Run

pytestmark = pytest.mark.usefixtures("one_thread", "each_round_saved")

STEP = TICKS // 4


def scale(first: int, voices: int = 1, twice: int | None = None) -> Tune:
    """Eight quarter notes up a scale; other voices a third below each. The note ``twice`` is two eighths."""
    notes = []
    for k, step in enumerate((0, 2, 4, 5, 7, 9, 11, 12)):
        parts = 2 if k == twice else 1
        for part in range(parts):
            start, length = k * TICKS + part * TICKS // 2, TICKS // parts
            notes += [Note(start, length, first + step - 4 * v, voice=v) for v in range(voices)]
    bars, sharps = (0, 4 * TICKS, 8 * TICKS), (7 * (first - 60) + 5) % 12 - 5
    return Tune(f"scale {first} {twice}", tuple(notes), 8 * TICKS, bars, (4, 4), sharps)


def scales(voices: int = 1) -> list[Tune]:
    return [scale(60 + k, voices) for k in range(0, 12, 2)]


def small(unit="step", **options) -> gw.MusicModel:
    given = dict(hidden=16, units=16, epochs=2, grid=1, dropout=0.0, window=50, learning_rate=0.06)
    return gw.MusicModel(unit, **(given | options))


def quiet(folder=None, **options) -> Run:
    return Run(folder, quiet=True, **options)


# --------------------------------------------------------------------------------------- outputs

OUTPUTS = {
    "independent": lambda: IndependentNotes(5, 4),
    "nade": lambda: NadeNotes(5, 4, 6),
    "voices": lambda: ChainedVoices(5, 2, 3, 6),
    "events": lambda: Symbols(5, 7, 6),
}
VALUES = {"independent": (4, 2), "nade": (4, 2), "voices": (2, 3), "events": (1, 7)}


def every_step(name: str) -> torch.Tensor:
    """All steps that an output can draw."""
    columns, symbols = VALUES[name]
    return torch.cartesian_prod(*[torch.arange(symbols)] * columns).reshape(-1, columns)


def made(name: str):
    torch.manual_seed(1)
    output = OUTPUTS[name]().double()
    with torch.no_grad():
        for weight in output.parameters():
            weight.normal_(0, 0.7)
    return output, torch.randn(1, 5, dtype=torch.float64)


@pytest.mark.parametrize("name", OUTPUTS)
def test_the_probabilities_of_all_steps_add_up_to_one(name):
    output, hidden = made(name)
    steps = every_step(name)
    total = torch.exp(-output.nll(hidden.expand(len(steps), -1), steps)).sum()
    assert total.item() == pytest.approx(1)


@pytest.mark.parametrize("name", OUTPUTS)
@torch.no_grad()
def test_steps_are_drawn_as_often_as_their_probability_says(name):
    output, hidden = made(name)
    steps = every_step(name)
    expected = torch.exp(-output.nll(hidden.expand(len(steps), -1), steps))
    unknown = torch.full((20_000, steps.shape[1]), UNKNOWN)
    drawn, likelihood = output.draw(hidden.expand(len(unknown), -1), unknown, 1.0)
    found = (drawn[:, None] == steps).all(-1).double().mean(0)
    torch.testing.assert_close(found, expected, atol=0.015, rtol=0)
    assert not likelihood.any()


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("independent", [-1, 1, -1, 0]),
        ("nade", [-1, -1, 1, 0]),
        ("voices", [2, -1]),
        ("events", [3]),
    ],
)
@torch.no_grad()
def test_given_values_are_kept_and_have_their_marginal_likelihood(name, given):
    output, hidden = made(name)
    steps, given = every_step(name), torch.tensor([given])
    fits = ((steps == given) | (given == UNKNOWN)).all(1)
    expected = torch.exp(-output.nll(hidden.expand(len(steps), -1), steps))[fits].sum()
    drawn, likelihood = output.draw(hidden, given, 1.0)
    assert ((drawn == given) | (given == UNKNOWN)).all()
    assert likelihood.exp().item() == pytest.approx(expected.item())


@pytest.mark.parametrize("name", OUTPUTS)
@torch.no_grad()
def test_a_low_temperature_draws_the_most_probable_step(name):
    output, hidden = made(name)
    unknown = torch.full((50, every_step(name).shape[1]), UNKNOWN)
    drawn, _ = output.draw(hidden.expand(50, -1), unknown, 1e-4)
    assert len(drawn.unique(dim=0)) == 1


def nade_by_hand(output: NadeNotes, hidden: torch.Tensor, step: torch.Tensor) -> float:
    """The sum over notes from the highest down, as in the paper."""
    vector, total = output.units(hidden)[0], 0.0
    for note in reversed(range(len(step))):
        logit = output.logits(hidden)[0, note] + torch.sigmoid(vector) @ output.weights[note]
        total -= math.log(torch.sigmoid(logit if step[note] else -logit).item())
        vector = vector + step[note] * output.sounding[note]
    return total


def test_nade_is_the_equation_of_its_paper():
    output, hidden = made("nade")
    for step in every_step("nade"):
        expected = nade_by_hand(output, hidden, step)
        assert output.nll(hidden, step[None]).item() == pytest.approx(expected)


def network(output="nade", columns=88, symbols=2, places=()) -> MusicNetwork:
    torch.manual_seed(0)
    return MusicNetwork(MusicShape(output, columns, symbols, 12, 2, 8, 0.0, 0.0, places)).eval()


@torch.no_grad()
def test_a_tune_in_windows_and_in_a_batch_has_the_loss_of_the_whole():
    encoding, tunes = Voices(1, 2, meters=("4/4",)), scales(2)[:3]
    net = network("voices", 2, 90, encoding.places.sizes)
    encoded = [
        EncodedTune(encoding.encode(tune)[:n], encoding.places.of_tune(tune, n))
        for tune, n in zip(tunes, (8, 3, 5), strict=True)
    ]

    def losses(length: int, which: list[int]) -> list[torch.Tensor]:
        windows, carry = Windows(encoded, encoding, length), None
        found: dict[int, list[torch.Tensor]] = {k: [] for k in which}
        for window in TuneBatches(windows, np.array(which), 16, None, False):
            batch = windows[window]
            state = None if batch.fresh else tuple(s[:, : len(batch.lengths)] for s in carry)
            given = (batch.before, batch.steps, batch.places, batch.lengths)
            each, carry = net.nll(*given, state)
            for tune, part in zip(
                batch.tunes.tolist(), each.split(batch.lengths.tolist()), strict=True
            ):
                found[tune].append(part)
        return [torch.cat(found[k]) for k in which]

    together = losses(3, [0, 1, 2])
    for k in range(3):
        torch.testing.assert_close(together[k], losses(100, [k])[0])


@pytest.mark.parametrize(
    "encoding",
    [Voices(1, 2, meters=("4/4",)), Events(1, meters=("3/4", "4/4"))],
    ids=["steps", "events"],
)
@torch.no_grad()
def test_a_sampler_reads_as_the_network_does(encoding):
    name = "voices" if encoding.columns == 2 else "events"
    net = network(name, encoding.columns, encoding.symbols, encoding.places.sizes)
    tune = replace(scale(60, 2), bars=(0, TICKS, 5 * TICKS, 8 * TICKS))
    steps = encoding.encode(tune)
    places = torch.from_numpy(encoding.places_of(tune, steps))
    assert len(places.unique(dim=0)) >= 5
    sampler = Sampler(net, encoding.clock(tune, len(steps), 1), encoding.columns)
    steps = torch.from_numpy(steps)
    likelihood = torch.stack([sampler.step(row[None], 1.0) for row in steps])[:, 0]
    before = torch.cat([torch.full_like(steps[:1], UNKNOWN), steps[:-1]])[None]
    expected, _ = net.nll(before, steps[None], places[None], torch.tensor([len(steps)]))
    torch.testing.assert_close(likelihood, -expected, atol=1e-5, rtol=1e-5)


def test_a_process_of_several_scores_every_tune(melodies, monkeypatch):
    """Of a training run the first process scores the test part, alone."""
    model, folder = melodies
    expected = model.predict(folder)
    monkeypatch.setattr(training, "rank_and_count", lambda: (1, 2))
    assert model.predict(folder).equals(expected)
    assert training.own_tunes(np.arange(5)).tolist() == [1, 3]


def test_every_epoch_has_each_tune_once_in_the_same_number_of_windows():
    encoded = [
        EncodedTune(np.zeros((n, 1), np.int64), np.zeros((n, 0), np.int64))
        for n in (3, 9, 2, 14, 5, 6, 7)
    ]
    windows = Windows(encoded, Voices(1, 1), 4)
    batches = TuneBatches(windows, np.arange(7), 2, 0, True)
    orders = []
    for epoch in range(3):
        batches.set_epoch(epoch)
        drawn = list(batches)
        assert len(drawn) == len(batches)
        first = np.concatenate([window.tunes for window in drawn if window.start == 0])
        assert sorted(first) == list(range(7))
        steps = sum(int(windows[window].lengths.sum()) for window in drawn)
        assert steps == sum(len(tune.steps) for tune in encoded)
        orders.append(first.tolist())
    assert orders[0] != orders[1]


# ------------------------------------------------------------------------------------- baselines


def test_n_grams_are_witten_bell_by_hand():
    tune = np.array([0, 1, 0, 1, 0, 2])[:, None]
    grams = NGrams.fitted([tune], 4)
    # 0, 1, 2 came 3, 2, 1 times: 6 values, of 3 kinds
    one = [(3 + 3 / 4) / 9, (2 + 3 / 4) / 9, (1 + 3 / 4) / 9, (3 / 4) / 9]
    assert np.exp(-grams.nll(np.array([[0], [1], [2], [3]]), 1)) == pytest.approx(one)
    # after 0 came 1 twice and 2 once
    after = [(2 + 2 * one[1]) / 5, (1 + 2 * one[2]) / 5, 2 * one[3] / 5]
    found = [np.exp(-grams.nll(np.array([[0], [k]]), 2))[1] for k in (1, 2, 3)]
    assert found == pytest.approx(after)
    # after 1, 0 came 1 once and 2 once
    third = np.exp(-grams.nll(np.array([[1], [0], [2]]), 3))[2]
    assert third == pytest.approx((1 + 2 * after[1]) / 4)


def test_n_gram_samples_have_the_counts_of_the_data():
    tune = np.array([0, 1, 2] * 30)[:, None]
    grams = NGrams.fitted([tune], 3)
    drawn = grams.sample(300, 1, np.random.default_rng(0))[:, 0]
    follows = (drawn[1:] - drawn[:-1]) % 3
    assert (follows == 1).mean() > 0.9
    assert len(grams.sample(300, 1, np.random.default_rng(0), end=2)) < 10


# ------------------------------------------------------------------------------------------ task


@pytest.fixture(scope="module")
def melodies(tmp_path_factory) -> tuple[gw.MusicModel, Path]:
    """A model of events, and its folder of tunes."""
    folder = tmp_path_factory.mktemp("tunes")
    for k in range(16):
        tune = scale(60 + k // 8 * 12, twice=k % 8).transposed(k % 3)
        (folder / f"{k:02}.mid").write_bytes(midi_bytes(tune))
    model = small("event", transpose="common", grid=2, epochs=100, hidden=48, units=24)
    return model.fit(folder, validation=0, test=2, run=quiet()), folder


def test_a_model_of_events_learns_a_scale(melodies):
    model, folder = melodies
    found = model.evaluate(folder)
    # for each note a note-on and a shift, two bar lines, and the metre, the last note-off and the end
    assert found.n == 2 * (2 * 9 + 2 + 3)
    assert found.unit == "events of 2 tunes"
    assert found.notes == ("14 tunes were left out, because the model was trained on them",)
    assert found.scores["nll"] < found.baseline["3-gram"]["nll"]
    assert set(found.baseline) == {"note frequencies", "first-order model", "3-gram"}


def test_samples_are_scales_in_the_key_that_is_asked_for(melodies):
    model, _ = melodies
    tunes = model.generate(samples=4, temperature=0.1, meter="4/4", sharps=2)
    for tune in tunes:
        found = list(dict.fromkeys(note.pitch % 12 for note in tune.notes))
        assert found == [2, 4, 6, 7, 9, 11, 1]
    assert shares(tunes)["notes_in_key"] == 1.0
    assert tunes[0].meter == (4, 4)
    assert model.generate(samples=2, seed=3) == model.generate(samples=2, seed=3)
    assert model.generate(samples=2, seed=3) != model.generate(samples=2, seed=4)


def test_a_tune_is_continued(melodies):
    model, _ = melodies
    start = scale(67)
    (tune,) = model.generate(start=start, keep=3.0, temperature=0.1)
    assert tune.notes[:3] == start.before(3 * TICKS).notes
    assert tune.sharps == start.sharps == 1
    (moved,) = model.generate(start=start, keep=3.0, temperature=0.1, sharps=2)
    assert moved.notes == tune.transposed(7).notes
    steps = dict.fromkeys(note.pitch - tune.notes[0].pitch for note in tune.notes)
    assert list(steps) == [0, 2, 4, 5, 7, 9, 11, 12]


def test_no_step_to_add_to_a_tune_is_an_error(melodies):
    model, _ = melodies
    message = "steps=5 leaves nothing to add to the 7 events of start=: give more steps=, or keep="
    with pytest.raises(OptionError, match=message):
        model.generate(start=scale(67), keep=3.0, steps=5)
    steps = small(epochs=1).fit(scales(2), validation=0, test=0, run=quiet())
    with pytest.raises(
        OptionError, match="steps=8, the default, leaves nothing to add to the 8 steps"
    ):
        steps.generate(start=scale(60, 2))


def test_no_tune_ends_before_the_shortest(melodies):
    model, _ = melodies
    longer = model.generate(samples=4, shortest=40, steps=40, temperature=3.0)
    usual = model.generate(samples=4, steps=40, temperature=3.0)
    assert sum(len(t.notes) for t in longer) > sum(len(t.notes) for t in usual)
    logits = torch.tensor([[2.0, 1.0, -40.0]]).expand(50, -1)
    output = Symbols(3, 3, 2)
    output.logits = torch.nn.Identity()
    drawn, _ = output.draw(logits, torch.full((50, 1), UNKNOWN), 1.0, barred=[0])
    assert drawn[:, 0].tolist() == [1] * 50
    with pytest.raises(
        OptionError, match=r"shortest=50 is for models of events .* at most steps=40"
    ):
        model.generate(shortest=50, steps=40)


def test_the_lowest_temperature_draws_the_most_probable_events(melodies):
    model, _ = melodies
    coldest = model.generate(samples=2, temperature=1e-320)
    assert coldest[0].notes == coldest[1].notes == model.generate(temperature=1e-3)[0].notes


@pytest.mark.parametrize("name", ["start", "melody"])
def test_what_is_no_tune_is_named(melodies, name):
    with pytest.raises(DataError, match="5 is not music"):
        melodies[0].generate(**{name: 5})


def test_a_saved_model_scores_and_samples_the_same(melodies, tmp_path):
    model, folder = melodies
    model.save(tmp_path)
    again = gw.load(tmp_path)
    assert type(again) is gw.MusicModel
    assert again.evaluate(folder).record() == model.evaluate(folder).record()
    assert again.generate(samples=2) == model.generate(samples=2)


def test_damaged_n_grams_are_refused(melodies, tmp_path, monkeypatch):
    model, _ = melodies
    monkeypatch.setattr(model.ngrams_, "keys", model.ngrams_.keys[::-1].copy())
    with pytest.raises(ModelFileError, match="n-grams must be sorted"):
        model.save(tmp_path)


def test_the_table_of_tunes_has_their_losses(melodies):
    model, folder = melodies
    table = model.predict(folder / "00.mid")
    assert table["steps"].to_list() == [23]
    assert table["nll"][0] < 0.5


@pytest.mark.parametrize("notes", ["nade", "independent", "voices"])
def test_a_model_of_steps_beats_its_baselines(notes):
    model = small(notes=notes, epochs=50, batch=2, hidden=32)
    found = model.fit(scales(2), validation=0, test=0, run=quiet()).evaluate([scale(65, 2)])
    assert found.n == 8
    assert found.scores["nll"] < found.baseline["first-order model"]["nll"]
    tunes = model.generate(samples=2, steps=12)
    assert [tune.end for tune in tunes] == [12 * TICKS] * 2


def test_tunes_that_cannot_be_encoded_are_skipped_and_counted():
    data = [scale(59), *scales(2)]
    with pytest.raises(DataError, match="scale 59 None has 1 voices, expected 2 in every tune"):
        small(notes="voices").fit(data, validation=0, test=0, run=quiet())
    model = small(notes="voices", on_error="skip", epochs=1)
    with pytest.warns(
        GatewiseWarning,
        match=r"1 left out: tunes that cannot be encoded \(the first: scale 59 None has",
    ):
        model.fit(data, validation=0, test=0, run=quiet())
    assert len(model.names_) == 6
    with pytest.warns(GatewiseWarning, match="1 left out: tunes that cannot be encoded"):
        found = model.evaluate([scale(59), scale(65, 2)])
    assert found.n == 8
    assert "1 left out: tunes that cannot be encoded (the first: scale 59" in found.notes[0]
    with pytest.warns(GatewiseWarning, match="1 left out: tunes that cannot be encoded"):
        assert model.predict([scale(59), scale(65, 2)])["tune"].to_list() == ["scale 65 None"]
    with pytest.raises(DataError, match="no tune can be encoded; the first reason: scale 59"):
        model.evaluate([scale(59)])
    for method in (model.evaluate, model.predict):
        with pytest.raises(
            DataError, match=r"scale 59 .* leave such data out with on_error='skip'"
        ):
            method([scale(59), scale(65, 2)], on_error="stop")


def test_a_limit_is_of_the_data_of_fit_alone():
    tunes = [scale(60 + k) for k in range(8)]
    model = small(epochs=1, limit=5, transpose="none").fit(tunes, validation=0, test=2, run=quiet())
    assert len(model.seen_) == 3
    assert model.evaluate(tunes).unit == "steps of 2 tunes"
    assert model.evaluate(tunes[5:]).unit == "steps of 3 tunes"
    assert len(model.predict(tunes)) == 8


def test_notes_that_leave_a_piano_in_the_common_key_are_counted():
    high = scale(95).transposed(1)  # in C, from C7 to C8
    assert in_plain_key([high]) == [high]
    in_g = replace(high, sharps=1)  # goes five semitones up
    with pytest.warns(GatewiseWarning, match="3 notes left a piano's range, 21 to 108"):
        (moved,) = in_plain_key([in_g])
    assert len(moved.notes) == 5


def test_parts_of_the_data_are_kept(tmp_path):
    lists = {
        name: [[[60 + k, 64 + k], [62 + k]] for k in range(n)]
        for name, n in (("train", 6), ("valid", 2), ("test", 3))
    }
    path = tmp_path / "tunes.json"
    path.write_text(json.dumps(lists))
    model = small().fit(path, run=quiet())
    assert len(model.names_) == 8
    assert model.evaluate(path).n == 6


def test_a_melody_is_kept_and_the_harmony_suits_it():
    model = small(notes="voices", epochs=50, batch=2, hidden=32)
    model.fit(scales(2), validation=0, test=0, run=quiet())
    (tune,) = model.generate(melody=scale(64), temperature=0.3)
    upper, lower = ([n.pitch for n in tune.notes if n.voice == k] for k in range(2))
    assert upper == [note.pitch for note in scale(64).notes]
    below = [high - low for high, low in zip(upper, lower, strict=True)]
    assert below.count(4) >= 6


def test_a_roll_keeps_the_melody_above_its_harmony():
    model = small(epochs=1).fit(scales(2), validation=0, test=0, run=quiet())
    (tune,) = model.generate(melody=scale(64), particles=4)
    for k, note in enumerate(scale(64).notes):
        sounding = [n.pitch for n in tune.notes if n.start <= k * TICKS < n.start + n.length]
        assert max(sounding) == note.pitch


@torch.no_grad()
def test_particles_look_ahead():
    """Two voices whose second voice decides what the first one does next: only particles can know it."""

    class Ahead(ChainedVoices):
        def nll(self, hidden, steps):
            raise NotImplementedError

        def draw(self, hidden, given, temperature):
            # the first voice repeats the second voice's last value; the second is a coin
            last = self.last if self.last is not None else torch.zeros(len(given), dtype=torch.long)
            likelihood = torch.where(last == given[:, 0], 0.0, -20.0)
            self.last = torch.randint(0, 2, (len(given),))
            return torch.stack([given[:, 0], self.last], 1), likelihood

    net = network("voices", 2, 3)
    net.output = Ahead(12, 2, 3, 8)
    net.output.last = None
    kept = Sampler.keep

    def keep(self, chosen):
        kept(self, chosen)
        self.network.output.last = self.network.output.last[chosen]

    given = np.array([[0, -1], [1, -1], [0, -1], [0, -1], [1, -1], [1, -1]])
    torch.manual_seed(0)
    Sampler.keep, before = keep, Sampler.keep
    try:
        found = harmonised(net, given, GridClock(np.zeros((6, 0), np.int64), 64), 1.0)
    finally:
        Sampler.keep = before
    assert found[:-1, 1].tolist() == given[1:, 0].tolist()


def test_a_resumed_run_is_the_uninterrupted_run(tmp_path):
    whole = small(epochs=3, window=6).fit(scales(2), validation=1, test=1, run=quiet())

    class EnoughError(Exception):
        pass

    def stop(history):
        if len(history.train) == 2:
            raise EnoughError

    with pytest.raises(EnoughError):
        small(epochs=3, window=6).fit(
            scales(2), validation=1, test=1, run=quiet(tmp_path, after_round=stop)
        )
    again = small(epochs=3, window=6).fit(
        scales(2), validation=1, test=1, run=quiet(tmp_path, resume=True)
    )
    assert again.history_.train == whole.history_.train
    ours, theirs = again.network_.state_dict(), whole.network_.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(melody=scale(60), start=scale(60)), "not both"),
        (dict(sharps=2), "transpose='common'"),
        (dict(meter="3/4"), "meter=.3/4. is not a metre of the training part; it had 4/4"),
        (dict(meter="4/4", start=scale(60, 2)), "keeps its own"),
        (dict(temperature=0.0), "temperature must be a number above 0, not 0.0"),
        (dict(samples=0), "samples must be a positive integer, not 0"),
    ],
)
def test_options_of_generate_that_do_not_fit(options, message):
    model = small(epochs=1).fit(scales(2), validation=0, test=0, run=quiet())
    with pytest.raises(OptionError, match=message):
        model.generate(**options)


def test_options_and_data_that_do_not_fit(melodies):
    model, _ = melodies
    with pytest.raises(OptionError, match="grid=7 must divide a quarter note of 480 ticks"):
        small(grid=7).fit(scales(), run=quiet())
    with pytest.raises(
        OptionError, match="meter='5/4' is not a metre of the training part; it had 4/4"
    ):
        model.generate(meter="5/4")
    with pytest.raises(OptionError, match="melody= is for models of steps"):
        model.generate(melody=scale(60))
    with pytest.raises(DataError, match="leave no tune to train on"):
        small().fit(scales()[:2], validation=1, test=1, run=quiet())
    with pytest.raises(DataError, match="cannot test it"):
        small(epochs=1).fit(scales(), test=0, validation=0, run=quiet()).evaluate(scales())


def test_the_error_of_a_step_names_its_tune():
    model = small()
    model.options_ = model.checked()
    batches = model.prepare(scales(2), 0, 0, Run()).training
    assert isinstance(batches, DataLoader)
    batch = next(iter(batches))
    tune = int(batch.tunes[1])
    assert (
        model.describe_member(batch, int(batch.lengths[0]) + 2) == f"step 2 of {model.names_[tune]}"
    )


def test_the_command_line(tmp_path, capsys):
    data = tmp_path / "data"
    data.mkdir()
    for k, tune in enumerate(scales(2)):
        (data / f"{k:02}.mid").write_bytes(midi_bytes(tune))
    (data / "notes.txt").write_text("by ear")
    run = str(tmp_path / "run")
    options = "--unit step --grid 1 --hidden 8 --units 4 --epochs 1 --validation 1 --test 1"
    assert main(["fit", "generate", str(data), *options.split(), "--out", run]) == 0
    said = capsys.readouterr()
    assert "Test part, 8 steps of 1 tune" in said.out
    # the data are read for the training, the scores and the report
    assert said.err.count("files in") == said.err.count("1 of 7 files in") == 1
    page = (tmp_path / "run" / "report.html").read_text()
    assert "A tune of the data, and two samples" in page
    assert main(["evaluate", run, str(data), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["n"] == 8
    table = str(tmp_path / "table.csv")
    assert main(["predict", run, str(data), "-o", table]) == 0
    assert Path(table).read_text().count("\n") == 7
    new = str(tmp_path / "new.mid")
    words = ["generate", run, "--samples", "2", "--steps", "5", "-o", new]
    assert main(words) == 0
    assert "2 samples" in capsys.readouterr().out
    assert {path.name for path in tmp_path.glob("*.mid")} == {"new-1.mid", "new-2.mid"}
    assert main([*words[:-1], "new.wav"]) == 2
    assert "new.wav must have one of the endings .mid" in capsys.readouterr().err


def test_samples_are_written_or_printed(melodies, tmp_path, capsys):
    model, _ = melodies
    tunes = model.generate(samples=2, temperature=0.1)
    model.write_samples(tunes, tmp_path / "new.mid")
    assert [note.pitch for note in read_midi(tmp_path / "new-2.mid").notes] == [
        note.pitch for note in tunes[1].notes
    ]
    model.write_samples(tunes, None)
    assert capsys.readouterr().out.startswith("sample 1\nC")


def test_music_needs_its_packages(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "symusic", None)
    path = tmp_path / "tune.mid"
    path.write_bytes(b"MThd")
    with pytest.raises(gw.GatewiseError, match=r"pip install 'gatewise\[music\]'"):
        small().fit(path, run=quiet())


def test_the_lowest_pitch_is_the_first_column():
    assert LOWEST == 21
    assert Voices(1, 1).encode(Tune("low", (Note(0, TICKS, 21),), TICKS))[0, 0] == 2
