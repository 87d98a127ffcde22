"""Bars and metre of music: in written files, in what the network reads, and in new tunes."""

from __future__ import annotations

import struct
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

import gatewise as gw
from gatewise.cli import main
from gatewise.data.music.engraving import notation_bytes
from gatewise.data.music.events import Events
from gatewise.data.music.midi import midi_bytes, read_midi
from gatewise.data.music.notation import read_notation
from gatewise.data.music.places import Places, meters_of
from gatewise.data.music.steps import Roll, Voices
from gatewise.data.music.tune import TICKS, Note, Tune, bar_lines, bar_ticks, meter_of_bar, shares
from gatewise.errors import DataError, GatewiseWarning, ModelFileError
from gatewise.train.run import Run

pytestmark = pytest.mark.usefixtures("one_thread")

HALF = TICKS // 2


def quarters(*times: int) -> tuple[int, ...]:
    return tuple(time * TICKS for time in times)


def tune_of(bars: tuple[int, ...], meter=(3, 4), notes: tuple[Note, ...] = ()) -> Tune:
    """A tune with these bar lines, and with a last note that ends with the last bar."""
    return Tune("tune", (*notes, Note(bars[-1] - HALF, HALF, 62)), bars[-1], bars, meter, 1)


# ------------------------------------------------------------------------------------ bars in files

# overlapping notes, a triplet, and notes that are tied over one and over two bar lines
NOTES = (
    *(Note(0, TICKS, 60), Note(TICKS, 5 * TICKS // 4, 64), Note(TICKS, 3 * TICKS, 55)),
    *(Note(TICKS + HALF, TICKS, 70), Note(6 * TICKS, 4 * TICKS, 72)),
    *(Note(10 * TICKS + k * TICKS // 3, TICKS // 3, 71) for k in range(3)),
)
WRITTEN = {
    "a pickup": (quarters(0, 1, 4, 7, 10, 13), (3, 4), (3, 4)),
    "no pickup": (quarters(0, 3, 6, 9, 12), (3, 4), (3, 4)),
    "a short last bar": (quarters(0, 1, 4, 7, 10, 12), (3, 4), (3, 4)),
    "sections": (quarters(0, 1, *range(4, 23, 3), 24, 27, 30, 33), (3, 4), (3, 4)),
    "a long bar": (quarters(0, 3, 8, 11), (3, 4), None),
    "changing metre": (quarters(0, 3, 7, 10, 14), None, None),
    "eighths": ((0, HALF, *range(7 * HALF, 26 * HALF, 6 * HALF)), (6, 8), (6, 8)),
}


@pytest.mark.parametrize("name", WRITTEN)
@pytest.mark.parametrize("kind", ["mid", "musicxml"])
def test_written_tunes_have_their_bars_and_their_metre(name, kind, tmp_path):
    bars, meter, expected = WRITTEN[name]
    tune = tune_of(bars, meter, NOTES)
    write, read = {
        "mid": (midi_bytes, read_midi),
        "musicxml": (notation_bytes, read_notation),
    }[kind]
    path = tmp_path / f"tune.{kind}"
    path.write_bytes(write(tune))
    back = read(path)
    assert back.notes == tune.notes
    assert back.bars == tune.bars
    assert back.meter == expected


def test_a_pickup_of_musicxml_has_no_number_and_a_short_bar_ends_a_section():
    page = notation_bytes(tune_of(quarters(0, 1, 4, 6, 9))).decode()
    assert '<measure implicit="yes" number="0"' in page
    assert page.count("<bar-style>light-light</bar-style>") == 1


@pytest.mark.parametrize(
    ("signatures", "bars", "meter"),
    [
        ([], (0, 4, 8, 10), (4, 4)),
        ([(4, 3, 4)], (0, 4, 7, 10), None),
        ([(0, 3, 4)], (0, 3, 6, 9, 10), (3, 4)),
        ([(0, 1, 4), (1, 3, 4)], (0, 1, 4, 7, 10), (3, 4)),
        ([(0, 4, 4), (4, 2, 4), (6, 4, 4)], (0, 4, 6, 10), None),
    ],
)
def test_midi_has_bars_of_its_time_signatures_and_of_four_quarters_before_them(
    signatures, bars, meter, tmp_path
):
    path = tmp_path / "tune.mid"
    path.write_bytes(ten_quarters([(start, beats, 2) for start, beats, _ in signatures]))
    back = read_midi(path)
    assert (back.bars, back.meter) == (quarters(*bars), meter)


def ten_quarters(signatures: list[tuple[int, int, int]]) -> bytes:
    """A MIDI file with one note of ten quarter notes, and time signatures: time, beats, and the power of 2 of their
    unit."""
    events = [
        (time, bytes([0xFF, 0x58, 4, beats, unit, 24, 8])) for time, beats, unit in signatures
    ]
    events += [(0, bytes([0x90, 60, 64])), (10, bytes([0x80, 60, 0])), (10, b"\xff\x2f\0")]
    track, now = b"", 0
    for time, event in sorted(events, key=lambda each: each[0]):
        track, now = track + bytes([time - now]) + event, time
    head = b"MThd" + struct.pack(">IHHH", 6, 0, 1, 1)  # one tick is a quarter note
    return head + b"MTrk" + struct.pack(">I", len(track)) + track


@pytest.mark.parametrize(("beats", "unit", "named"), [(0, 2, "0/4"), (3, 7, "3/128")])
def test_a_time_signature_that_is_no_metre_is_named(beats, unit, named, tmp_path):
    (tmp_path / "tune.mid").write_bytes(ten_quarters([(0, beats, unit)]))
    with pytest.raises(DataError, match=rf"tune.mid has the time signature {named}, expected"):
        read_midi(tmp_path / "tune.mid")


def test_a_saved_metre_that_is_none_is_refused(dances, tmp_path, monkeypatch):
    monkeypatch.setattr(dances, "meters_", ["3/4", "4/4", "6/0"])
    with pytest.raises(ModelFileError, match="must be a metre, such as '6/8', not '6/0'"):
        dances.save(tmp_path)


def test_bar_lines_go_on_after_the_end_of_a_tune():
    tune = tune_of(quarters(0, 1, 4, 6))
    assert bar_lines(tune, 12 * TICKS) == quarters(0, 1, 4, 7, 10, 12)
    assert bar_lines(tune, 3 * TICKS) == quarters(0, 1, 3)
    assert bar_lines(replace(tune, bars=(), meter=None), 5 * TICKS) == quarters(0, 5)
    found = [meter_of_bar(length, 8) for length in (HALF, TICKS, 3 * TICKS, HALF // 2, 7)]
    assert found == [(1, 8), (2, 8), (6, 8), (1, 16), None]


# ------------------------------------------------------------------------- what the network reads


def test_the_places_of_steps_by_hand():
    """Two eighths a quarter note, a pickup of one quarter note in 3/4, and a last bar that is filled."""
    tune = tune_of(quarters(0, 1, 4, 5))
    places = Places(2, ("4/4", "3/4"))
    assert places.sizes == (9, 11, 9, 4)
    # since the bar line, 2 more than is left of six eighths, the bar, and no eight bars before
    pickup = [(4, 4, 0, 0), (5, 3, 0, 0)]
    bar = [(k, 8 - k) for k in range(6)]
    expected = [*pickup, *((*each, 1, 0) for each in bar), *((*each, 2, 0) for each in bar[:4])]
    assert places.of_tune(tune, 12).tolist() == [list(each) for each in expected]
    for encoding in (Roll(2, meters=places.meters), Voices(2, 1, meters=places.meters)):
        steps = encoding.encode(tune)
        found = encoding.places_of(tune, steps)
        assert found.tolist() == [list(each) for each in expected[:10]]


def test_the_places_of_events_by_hand():
    events = Events(2, line=True, meters=("3/4", "6/8"))
    names = ["meter:6/8", "on:60", "shift:1", "bar", "on:62", "shift:4", "on:60", "shift:3", "bar"]
    steps = np.array([[events.names.index(name)] for name in [*names, "end"]])
    expected = [
        (0, 0, 0, 0),  # no metre
        *((0, 8, 0, 0), (0, 8, 0, 0), (1, 7, 0, 0)),
        *((0, 8, 1, 0), (0, 8, 1, 0), (4, 4, 1, 0), (4, 4, 1, 0)),
        (6, 1, 1, 0),  # seven eighths: past the end
        (0, 8, 2, 0),
    ]
    assert events.places_of(tune_of(quarters(0, 3)), steps).tolist() == [list(e) for e in expected]


def test_places_without_metre_of_another_metre_and_after_eight_bars():
    assert Places(4).sizes == ()
    assert Places(4).of_tune(tune_of(quarters(0, 3)), 5).shape == (5, 0)
    known = Places(1, ("3/4",))
    assert known.of_tune(tune_of(quarters(0, 5), (5, 4)), 5)[:, 1].tolist() == [0] * 5
    bars = known.of_tune(tune_of(quarters(0, 3)), 3 * 42)[::3, 2:]
    assert bars[:, 0].tolist() == [
        0,
        *range(1, 9),
        *range(1, 9),
        *range(1, 9),
        *range(1, 9),
        *range(1, 9),
        1,
    ]
    assert bars[:, 1].tolist() == [0, *([0] * 8), *([1] * 8), *([2] * 8), *([3] * 17)]
    assert Places(1, ("3/8", "2/4")).uneven == ("3/8",)
    tunes = [tune_of(quarters(0, 3), meter) for meter in ((3, 4), (2, 4), (2, 4), None)]
    assert meters_of(tunes) == ("2/4", "3/4")


# --------------------------------------------------------------------------------------- new tunes

METERS = ((3, 4), (4, 4), (6, 8))


def danced(meter: tuple[int, int], seed: int, pickup: bool = True) -> Tune:
    """Five bars of random notes and lengths, so that nothing but the metre says where the bar lines are."""
    draw, now, notes = np.random.default_rng(seed), 0, []
    full = bar_ticks(meter)
    bars = [0, *((full if not pickup else HALF) + k * full for k in range(5))]
    for begin, end in pairwise(bars):
        while now < end:
            length = min(int(draw.choice((HALF, HALF, TICKS, 3 * HALF))), end - now)
            notes.append(Note(now, length, 60 + int(draw.choice((0, 2, 4, 5, 7)))))
            now += length
        assert begin < now == end
    return Tune(f"dance {seed}", tuple(notes), now, tuple(bars), meter, 0)


@pytest.fixture(scope="module")
def dances() -> gw.MusicModel:
    """A model of the events of dances in three metres, with pickups."""
    options = dict(hidden=48, units=16, epochs=12, grid=2, dropout=0.0, batch=2, learning_rate=0.02)
    tunes = [danced(METERS[k % 3], k) for k in range(60)]
    model = gw.MusicModel("event", transpose="none", **options)
    return model.fit(tunes, validation=0, test=0, run=Run(quiet=True))


def test_new_tunes_keep_their_bars(dances):
    tunes = dances.generate(samples=30)
    assert {tune.meter for tune in tunes} == set(METERS)
    assert sum(len(tune.bars) - 3 for tune in tunes) > 60
    assert shares(tunes)["bars_that_add_up"] > 0.9
    for meter in METERS:
        (tune,) = dances.generate(meter="{}/{}".format(*meter), temperature=0.5)
        assert tune.meter == meter
        assert set(np.diff(tune.bars[1:-1])) == {bar_ticks(meter)}


def test_a_tune_is_continued_in_its_bars(dances, tmp_path):
    """Also from the middle of a bar, after a reload, and in the file that the command line writes."""
    start = danced((3, 4), 1000)
    kept = HALF + 4 * TICKS  # a pickup, a bar, and a quarter note
    tunes = dances.generate(start=start, keep=kept / TICKS, samples=10)
    assert [tune.before(kept).notes for tune in tunes] == [start.before(kept).notes] * 10
    assert {tune.meter for tune in tunes} == {(3, 4)}
    assert all(tune.bars[:3] == (0, HALF, HALF + 3 * TICKS) for tune in tunes)
    assert shares(tunes)["bars_that_add_up"] > 0.9
    dances.save(tmp_path / "run")
    assert gw.load(tmp_path / "run").generate(start=start, keep=4.5, samples=10) == tunes
    (tmp_path / "start.mid").write_bytes(midi_bytes(start))
    words = ["generate", str(tmp_path / "run"), "--start", str(tmp_path / "start.mid")]
    out = tmp_path / "new.musicxml"
    assert main([*words, "--keep", "4.5", "--temperature", "0.5", "-o", str(out)]) == 0
    (written,) = dances.generate(start=start, keep=4.5, temperature=0.5)
    back = read_notation(out)
    assert (back.bars, back.meter, back.notes) == (written.bars, (3, 4), written.notes)


def test_a_tune_in_a_metre_that_the_model_does_not_know_keeps_it(dances):
    start = danced((5, 4), 1, pickup=False)
    with pytest.warns(GatewiseWarning, match=r"dance 1 has the metre 5/4, .* had 3/4, 4/4, 6/8"):
        (tune,) = dances.generate(start=start, keep=5)
    assert tune.meter == (5, 4)


def steps_model(**options) -> gw.MusicModel:
    given = dict(hidden=8, units=8, epochs=1, transpose="none", grid=2)
    model = gw.MusicModel("step", **(given | options))
    tunes = [danced(meter, 5, pickup=False) for meter in ((6, 8), (6, 8), (4, 4))]
    return model.fit(tunes, validation=0, test=0, run=Run(quiet=True))


@pytest.mark.parametrize("notes", ["nade", "voices"])
def test_steps_have_the_bars_of_their_metre(notes, tmp_path):
    model = steps_model(notes=notes)
    (usual,) = model.generate(steps=14)
    assert (usual.meter, usual.bars) == ((6, 8), quarters(0, 3, 6, 7))
    (asked,) = model.generate(steps=14, meter="4/4")
    assert (asked.meter, asked.bars) == ((4, 4), quarters(0, 4, 7))
    (written,) = model.write_samples([asked], tmp_path / "new.mid")
    assert read_midi(written).meter == (4, 4)
    start = danced((4, 4), 6)
    (longer,) = model.generate(start=start, keep=4.5, steps=26)
    assert (longer.meter, longer.bars) == ((4, 4), (0, HALF, HALF + 4 * TICKS, *longer.bars[3:]))
    assert set(np.diff(longer.bars[1:-1])) == {4 * TICKS}
    (harmony,) = model.generate(melody=start, particles=4)
    assert (harmony.meter, harmony.bars) == (start.meter, start.bars)


def test_steps_are_drawn_in_the_places_that_were_learned():
    """Notes that begin only with a bar: 3/4 and 4/4 differ in nothing but their places."""
    tunes = [
        tune_of(quarters(*range(0, 25, beats)), (beats, 4)) for beats in (3, 4) for _ in range(4)
    ]
    tunes = [replace(t, notes=tuple(Note(bar, TICKS, 60) for bar in t.bars[:-1])) for t in tunes]
    options = dict(hidden=16, units=8, epochs=60, transpose="none", grid=1, learning_rate=0.05)
    model = gw.MusicModel("step", notes="independent", dropout=0.0, batch=8, **options)
    model.fit(tunes, validation=0, test=0, run=Run(quiet=True))
    for beats in (3, 4):
        (tune,) = model.generate(meter=f"{beats}/4", steps=24, temperature=0.1)
        assert tuple(note.start for note in tune.notes) == tune.bars[:-1]


def test_a_grid_that_cannot_hold_a_bar_is_said():
    model = gw.MusicModel("event", grid=1, hidden=4, units=4, epochs=1)
    with pytest.warns(
        GatewiseWarning, match=r"grid=1 has no whole number of steps in a bar of 3/8"
    ):
        model.fit([danced((3, 8), 1)] * 2, validation=0, test=0, run=Run(quiet=True))
