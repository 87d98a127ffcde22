"""Tunes: files of every kind, what is wrong in them, and their encodings."""

from __future__ import annotations

import io
import json
import pickle
import re
import struct
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from gatewise.data.music.engraving import notation_bytes
from gatewise.data.music.events import Events
from gatewise.data.music.midi import midi_bytes, read_midi
from gatewise.data.music.notation import read_notation
from gatewise.data.music.steps import FIRST, HOLD, REST, Roll, Voices, line_of
from gatewise.data.music.tune import (
    LOWEST,
    TICKS,
    Note,
    Tune,
    bar_ticks,
    full_bars,
    in_key,
    shares,
    to_plain_key,
)
from gatewise.data.music.writing import in_words, write_tunes
from gatewise.data.sources.music import Music
from gatewise.errors import DataError, GatewiseWarning, OptionError

HALF = TICKS // 2
HEADER = "X:1\nT:Test\nM:{meter}\nL:1/8\nK:{key}\n"


def one(path: Path) -> Tune:
    (tune,) = Music().read(path).tunes
    return tune


def abc(folder: Path, notes: str, meter="6/8", key="D", name="tune.abc") -> Path:
    path = folder / name
    path.write_text(HEADER.format(meter=meter, key=key) + notes + "\n")
    return path


def pitches(tune: Tune) -> list[int]:
    return [note.pitch for note in tune.notes]


def chord_tune() -> Tune:
    """Two voices in 3/4: a melody with a rest, over held notes."""
    upper = [Note(0, TICKS, 72, 90), Note(TICKS, HALF, 74, 60), Note(2 * TICKS, TICKS, 76, 60)]
    lower = [Note(0, 3 * TICKS, 48, 70, voice=1), Note(3 * TICKS, 3 * TICKS, 50, 70, voice=1)]
    bars = (0, 3 * TICKS, 6 * TICKS)
    return Tune("two voices", (*upper, *lower), 6 * TICKS, bars, (3, 4), -2, 90.0)


# ------------------------------------------------------------------------------------------- ABC


def test_abc_has_the_key_the_accidentals_and_the_lengths_of_its_notes(tmp_path):
    tune = one(abc(tmp_path, "DFA d>ef|=fc_B ^f2c|]"))
    assert pitches(tune) == [62, 66, 69, 74, 76, 78, 77, 73, 70, 78, 73]
    assert [n.length for n in tune.notes] == [240, 240, 240, 360, 120, 240, *(240,) * 3, 480, 240]
    assert (tune.meter, tune.sharps, tune.bars) == ((6, 8), 2, (0, 1440, 2880))


def test_an_accidental_holds_to_the_end_of_its_bar(tmp_path):
    assert pitches(one(abc(tmp_path, "^GGG GGG|GGG GGG|]", key="C"))) == [68] * 6 + [67] * 6


def test_ties_join_notes_also_over_a_bar_line(tmp_path):
    tune = one(abc(tmp_path, "D3 ^G3-|G3 G3|]", key="C"))
    assert [(n.start, n.length, n.pitch) for n in tune.notes] == [
        (0, 720, 62),
        (720, 1440, 68),
        (2160, 720, 67),
    ]


def test_triplets_chords_rests_and_grace_notes(tmp_path):
    tune = one(abc(tmp_path, "(3DEF z2 {g}[DA]2|]", meter="3/4", key="C"))
    assert [(n.start, n.length, n.pitch) for n in tune.notes] == [
        (0, 160, 62),
        (160, 160, 64),
        (320, 160, 65),
        (960, 480, 69),
        (960, 480, 62),
    ]


@pytest.mark.parametrize(
    ("notes", "bars"),
    [
        ("A|DFA d2e|f3 d2|]", (0, 240, 1680, 2880)),  # a pickup, and a last bar that completes it
        ("DFA d2:|:e|f3 d3|]", (0, 1440, 2880)),  # a repeat within a bar
        ("DFA d3||[1 f3 d3:|[2 d6|]", (0, 1440, 2880, 4320)),
    ],
)
def test_bars_at_the_ends_of_sections_may_be_shorter(tmp_path, notes, bars):
    assert one(abc(tmp_path, notes)).bars == bars


@pytest.mark.parametrize(
    ("notes", "bar", "given"),
    [("DFA d2e|fed c|d6|]", 2, "4/8"), ("A|DFA d2e f|d6|]", 1, "7/8")],
)
def test_a_bar_that_does_not_add_up_is_named(tmp_path, notes, bar, given):
    message = rf"tune.abc, tune 1 \(Test\), bar {bar}: its notes add up to {given}, expected 6/8"
    with pytest.raises(DataError, match=message):
        one(abc(tmp_path, notes))


@pytest.mark.parametrize("meter", ["2+3/8", "(2+3)/8", "( 2 + 3 ) / 8 % additive", "5/8"])
def test_a_metre_may_be_a_sum_of_beats(tmp_path, meter):
    tune = one(abc(tmp_path, "DF A2f|Z|d2 d3|]", meter=meter))
    assert (tune.meter, tune.bars) == ((5, 8), (0, 1200, 2400, 3600))
    with pytest.raises(DataError, match=r"bar 2: its notes add up to 6/8, expected 5/8"):
        one(abc(tmp_path, "DF A2f|DFA d2e|d2 d3|]", meter=meter))
    inline = one(abc(tmp_path, f"DF A2f|[M:{meter}]f2 d3|]", meter="5/8"))
    assert (inline.meter, inline.bars) == ((5, 8), (0, 1200, 2400))


@pytest.mark.parametrize(
    "meter", ["2+/8", "(2+3/8", "C+3/8", "3/4+2/4", "0/4", "3/0", "+/8", "free"]
)
def test_a_metre_that_cannot_be_read_is_named(tmp_path, meter):
    with pytest.raises(
        DataError, match=rf"\(Test\) has the metre '{re.escape(meter)}', expected one"
    ):
        one(abc(tmp_path, "DFA d2e|]", meter=meter))


@pytest.mark.parametrize("meter", ["", "none", "None"])
def test_a_tune_may_have_no_metre(tmp_path, meter):
    assert one(abc(tmp_path, "DFA d2e|d|]", meter=meter)).meter is None


def test_a_skipped_tune_is_counted_and_the_others_are_read(tmp_path):
    abc(tmp_path, "DFA d2e|fed c|d6|]", name="a.abc")
    abc(tmp_path, "DFA d3|]", name="b.abc")
    with pytest.warns(GatewiseWarning, match=r"1 left out: .* bar 2: .* 4/8"):
        read = Music(on_error="skip").read(tmp_path)
    assert [tune.name for tune in read.tunes] == ["b.abc, tune 1 (Test)"]
    assert read.problems.counts.total() == 1
    with pytest.raises(DataError, match="or leave such data out with on_error='skip'"):
        Music().read(tmp_path)


def places(tune: Tune) -> list[tuple[float, float, int, int]]:
    """Start and length in quarter notes, pitch and voice of each note."""
    return [(n.start / TICKS, n.length / TICKS, n.pitch, n.voice) for n in tune.notes]


def test_rests_of_whole_bars_and_invisible_rests_take_their_time(tmp_path):
    tune = one(abc(tmp_path, 'D6|Z|D6|Z2|x3 y "xyZ" D3|X|D6|]'))
    starts = [(start, length) for start, length, _, _ in places(tune)]
    assert starts == [(0, 3), (6, 3), (16.5, 1.5), (21, 3)]
    assert tune.bars == tuple(range(0, 24 * TICKS + 1, 3 * TICKS))
    with pytest.raises(DataError, match=r"the rest 'Z2' of whole bars, but no metre"):
        one(abc(tmp_path, "CD|Z2|E2|]", meter="none"))


VOICES = "X:1\nM:4/4\nL:1/4\nV:1 name=high\nV:2\nK:C\n"


@pytest.mark.parametrize(
    "notes",
    [
        "V:1\nCDEF|GABc|]\nV:2\nC,4|D,4|]\n",
        "[V:1]CDEF|\n[V:2]C,4|\n[V:1]GABc|]\n[V:2]D,4|]\n",
        "CDEF|GABc|]\nV:2\nC,4|D,4|]\n",
    ],
)
def test_voices_of_abc_sound_together(tmp_path, notes):
    path = tmp_path / "two.abc"
    path.write_text(VOICES + notes)
    tune = one(path)
    low = [(n.start, n.length, n.pitch) for n in tune.notes if n.voice == 1]
    assert [n.pitch for n in tune.notes if n.voice == 0] == [60, 62, 64, 65, 67, 69, 71, 72]
    assert low == [(0, 4 * TICKS, 48), (4 * TICKS, 4 * TICKS, 50)]
    assert (tune.end, tune.bars) == (8 * TICKS, (0, 4 * TICKS, 8 * TICKS))


def test_voices_of_abc_that_differ_in_their_bars_and_overlays_are_named(tmp_path):
    path = tmp_path / "two.abc"
    path.write_text(VOICES + "V:1\nC|CDEF|GABc|]\nV:2\nC,4|D,4|]\n")
    with pytest.raises(
        DataError, match=r"voice 2 has its bar lines at other times than .* voice 1"
    ):
        one(path)
    path.write_text(VOICES + "V:1\nCDEF|GABc|]\nV:2\nC,4|D,3|E,4|]\n")
    with pytest.raises(DataError, match="tune 1, voice 2, bar 2: its notes add up to 3/4"):
        one(path)
    with pytest.raises(DataError, match="joined by '&' within a bar"):
        one(abc(tmp_path, "D6&F6|]"))


def test_fields_before_the_first_tune_hold_for_tunes_without_them(tmp_path):
    path = tmp_path / "two.abc"
    head = "%abc-2.1\nM:3/4\nL:1/4\nK:D\n\n"
    path.write_text(f"{head}X:1\nT:one\nFFF|]\n\nX:2\nM:4/4\nK:C\nFFFF|]\n")
    first, second = Music().read(path).tunes
    assert (first.meter, first.sharps, second.meter, second.sharps) == ((3, 4), 2, (4, 4), 0)
    assert places(first) == [(k, 1, 66, 0) for k in range(3)]
    assert places(second) == [(k, 1, 65, 0) for k in range(4)]


def test_a_key_within_a_line_changes_the_notes_after_it(tmp_path):
    assert pitches(one(abc(tmp_path, "C3 F3|[K:D]C3 F3|]", key="C"))) == [60, 65, 61, 66]


def test_the_lines_of_abc_may_end_as_in_windows(tmp_path):
    path = tmp_path / "tune.abc"
    path.write_bytes(b"X:1\r\nT:Test\r\nM:2/4\r\nK:C\r\nCDEF|\r\n")
    assert (one(path).name, places(one(path))[1]) == (
        "tune.abc, tune 1 (Test)",
        (0.25, 0.25, 62, 0),
    )


def test_abc_that_is_not_text(tmp_path):
    path = tmp_path / "tune.abc"
    path.write_bytes(b"X:1\nT:caf\xe9\nK:C\nCDE|\n")
    with pytest.raises(DataError, match=r"tune.abc is not UTF-8 text: byte 9 is 0xe9"):
        one(path)


def test_the_embedded_tunes_add_up():
    found = shares(Music().read(files("gatewise.data") / "examples" / "tunes.abc").tunes)
    assert found["bars_that_add_up"] == 1.0
    assert found["notes_in_key"] > 0.98


# ------------------------------------------------------------------------------------------ MIDI


def smf(kind: int, division: int, *tracks: bytes) -> bytes:
    head = b"MThd" + struct.pack(">IHHH", 6, kind, len(tracks), division)
    return head + b"".join(b"MTrk" + struct.pack(">I", len(t)) + t for t in tracks)


END = bytes([0, 0xFF, 0x2F, 0])
NOTE = bytes([0, 0x90, 60, 64, 96, 0x80, 60, 0])
DRUM = bytes([0, 0x99, 60, 64, 96, 0x89, 60, 0])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (smf(1, 96, END), "has no notes"),
        (smf(1, 96, DRUM + END), "has no notes but those of drums"),
        (smf(2, 96, NOTE + END, NOTE + END), "is of type 2"),
        (smf(1, 0xE728, NOTE + END), "SMPTE"),
        (smf(1, 96, NOTE + END)[:-6], "is damaged or truncated"),
        (smf(1, 0, NOTE + END), "0 ticks per quarter note"),
        (b"RIFF" + bytes(40), "is not a MIDI file"),
        (b"", "is not a MIDI file"),
    ],
)
def test_midi_that_cannot_be_read_is_named(tmp_path, data, message):
    path = tmp_path / "tune.mid"
    path.write_bytes(data)
    with pytest.raises(DataError, match=rf"tune\.mid.*{message}"):
        one(path)


def test_midi_that_is_written_reads_back_the_same(tmp_path):
    tune = chord_tune()
    path = tmp_path / "tune.mid"
    path.write_bytes(midi_bytes(tune))
    back = read_midi(path)
    assert back.notes == tune.notes
    assert (back.bars, back.meter, back.sharps) == (tune.bars, tune.meter, tune.sharps)
    assert back.tempo == pytest.approx(90, abs=1e-3)


def test_musicxml_that_is_written_reads_back_the_same(tmp_path):
    tune = chord_tune()
    path = tmp_path / "tune.musicxml"
    path.write_bytes(notation_bytes(tune))
    back = read_notation(path)
    plain = [replace(note, velocity=80) for note in tune.notes]  # notation has no velocities
    assert list(back.notes) == plain
    assert (back.bars, back.meter, back.sharps, back.tempo) == (tune.bars, (3, 4), -2, 90.0)


def test_a_bar_of_musicxml_that_does_not_add_up_is_named(tmp_path):
    page = notation_bytes(chord_tune()).decode()
    assert notation_bytes(chord_tune()).decode() == page  # no identifiers drawn at random
    assert f"<movement-title>{chord_tune().name}</movement-title>" in page
    assert '<creator type="composer" />' in page  # not "Music21"
    broken = page.replace("<beats>3</beats>", "<beats>2</beats>", 1)
    path = tmp_path / "tune.musicxml"
    path.write_text(broken)
    with pytest.raises(
        DataError, match=r"tune.musicxml, part 1, bar 1: its notes add up to 3/4, expected 2/4"
    ):
        read_notation(path)


def test_the_bars_of_every_part_of_musicxml_are_checked(tmp_path):
    before, beats, after = notation_bytes(chord_tune()).decode().rpartition("<beats>3</beats>")
    path = tmp_path / "tune.musicxml"
    path.write_text(before + beats.replace("3", "2") + after)
    with pytest.raises(DataError, match=r"part 2, bar 1: its notes add up to 3/4, expected 2/4"):
        read_notation(path)


def test_several_tunes_are_written_with_numbers(tmp_path):
    tunes = [chord_tune(), line_of(chord_tune())]
    written = write_tunes(tunes, tmp_path / "new.mid")
    assert [path.name for path in written] == ["new-1.mid", "new-2.mid"]
    assert [len(read_midi(path).notes) for path in written] == [5, 4]
    with pytest.raises(OptionError, match=r"new.wav must have one of the endings .mid"):
        write_tunes(tunes, tmp_path / "new.wav")


def test_a_tune_in_words():
    assert in_words(chord_tune()) == "C5:1+C3:3 D5:0.5 E5:1 | D3:3"


# ---------------------------------------------------------------------------------------- arrays


def test_rolls_lists_and_voices_are_the_same_tune(tmp_path):
    roll = np.zeros((3, 88), np.uint8)
    roll[0:2, 60 - LOWEST] = roll[1, 64 - LOWEST] = roll[2, 62 - LOWEST] = 1
    lists = [[60], [60, 64], [62]]
    voices = [[np.nan, 60], [64, 60], [np.nan, 62]]
    path = tmp_path / "tunes.json"
    path.write_text(json.dumps({"train": [lists], "test": [lists]}))
    step = TICKS // 4
    expected = [(0, 2 * step, 60), (step, step, 64), (2 * step, step, 62)]
    for given in ([roll], [lists], [voices], path):
        tune = Music(grid=4).read(given).tunes[0]
        assert [(n.start, n.length, n.pitch) for n in tune.notes] == expected
    assert Music(grid=4).read(path).parts == ["train", "test"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([np.zeros((4, 88))], "has no notes"),
        ([np.full((4, 88), 2)], "other values than 0 and 1"),
        ([np.ones((4, 40))], r"has the shape \(4, 40\)"),
        ([[[60], [60, 300]]], r"tune 0, step 1: 300 is not a pitch of a piano"),
        ({"learn": [[[60]]]}, r"has the parts 'learn'; expected train, valid and test"),
    ],
)
def test_arrays_that_are_not_music(given, message):
    with pytest.raises(DataError, match=message):
        Music().read(given)


@pytest.mark.parametrize("given", [None, 5])
def test_what_is_no_data_is_named(given):
    with pytest.raises(DataError, match=f"{given} is not music: give a file, a folder, or a list"):
        Music().read(given)
    with pytest.raises(DataError, match=r"tune 0 has the shape \(\)"):
        Music().read([1, 2, 3])


def test_tunes_beside_a_file_with_parts_are_an_error(tmp_path):
    (tmp_path / "tunes.json").write_text(json.dumps({"train": [[[60], [62]]], "test": [[[60]]]}))
    assert [t.name[-12:] for t in Music().read(tmp_path).tunes] == ["train tune 0", " test tune 0"]
    abc(tmp_path, "D6|]", name="a.abc")
    with pytest.raises(
        DataError, match=r"a.abc, tune 1 \(Test\) is of no part .*, but .*train tune"
    ):
        Music().read(tmp_path)


def test_a_tune_of_a_file_of_arrays_has_its_place_as_name(tmp_path):
    path = tmp_path / "tunes.json"
    path.write_text(json.dumps([[[60], [62]]]))
    assert one(path).name == f"{path}, tune 0"


def test_object_arrays_of_npz_are_read_and_code_in_them_is_not(tmp_path):
    tunes = np.empty(2, object)
    tunes[:] = [np.array([[60.0, 48.0]] * 3), np.array([[62.0, 50.0]] * 2)]
    path = tmp_path / "voices.npz"
    np.savez(path, train=tunes, test=tunes)
    read = Music().read(path)
    assert [len(tune.notes) for tune in read.tunes] == [2, 2, 2, 2]
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        head, {"descr": "|O", "fortran_order": False, "shape": (1,)}
    )
    bad = tmp_path / "code.npy"
    bad.write_bytes(head.getvalue() + pickle.dumps(print))
    with pytest.raises(DataError, match=r"code.npy: .*builtins.print; only arrays are read"):
        Music().read(bad)


def test_a_folder_without_music_and_a_file_of_another_kind(tmp_path):
    (tmp_path / "notes.txt").write_text("la la la")
    with pytest.raises(DataError, match=r"has no music files .* its 1 files are of type '.txt'"):
        Music().read(tmp_path)
    with pytest.raises(DataError, match=r"unknown file type '.txt'"):
        Music().read(tmp_path / "notes.txt")
    with pytest.raises(DataError, match=r"no file or folder .*…"):
        Music().read("x" * 300)
    with pytest.raises(DataError, match="no file or folder"):
        Music().read(tmp_path / "missing.mid")


def test_notes_outside_of_a_piano_are_counted():
    tune = Tune("low", (Note(0, 10, 12), Note(0, 10, 60)), 10)
    with pytest.warns(GatewiseWarning, match="1 notes outside of a piano's range"):
        assert pitches(Music().read([tune]).tunes[0]) == [60]


# ------------------------------------------------------------------------------------- encodings


def test_a_roll_says_what_sounds_at_each_step():
    roll = Roll(2).encode(chord_tune())
    sounding = [[LOWEST + int(k) for k in np.flatnonzero(row)] for row in roll]
    assert sounding == [[48, 72]] * 2 + [[48, 74], [48], [48, 76], [48, 76]] + [[50]] * 6
    assert np.array_equal(Roll(2).encode(Roll(2).decode(roll, "back")), roll)


def test_voices_tell_a_held_note_from_a_repeated_one():
    notes = (Note(0, TICKS, 60), Note(TICKS, TICKS, 60), Note(3 * TICKS, TICKS, 62))
    tune = Tune("repeated", notes, 4 * TICKS)
    steps = Voices(2, 1).encode(tune)
    c, d = FIRST + 60 - LOWEST, FIRST + 62 - LOWEST
    assert steps[:, 0].tolist() == [c, HOLD, c, HOLD, REST, REST, d, HOLD]
    assert Voices(2, 1).decode(steps, "back").notes == notes


def test_a_note_of_a_voice_is_changed_in_one_step():
    voices = Voices(1, 2)
    note = FIRST + 60 - LOWEST
    steps = np.array([[REST, note], [note, HOLD], [HOLD, HOLD], [HOLD, REST]])

    def changed(*edits):
        found = steps
        for edit in edits:
            found = voices.with_note(found, *edit)
        assert not np.array_equal(found, steps)
        return found.T.tolist()

    lower = [note, HOLD, HOLD, REST]
    taken = (2, 60, 0, False)
    assert changed(taken) == [[REST, note, REST, note], lower]
    assert changed((1, 60, 0, False)) == [[REST, REST, note, HOLD], lower]
    assert changed((2, 64, 0, True)) == [[REST, note, note + 4, note], lower]
    assert changed((0, 60, 0, True)) == [[note, note, HOLD, HOLD], lower]
    assert changed((3, 62, 1, True)) == [[REST, note, HOLD, HOLD], [note, HOLD, HOLD, note + 2]]
    assert changed(taken, taken) == changed(taken)
    for there in ((2, 60, 0, True), (2, 62, 0, False), (0, 60, 0, False)):
        np.testing.assert_array_equal(voices.with_note(steps, *there), steps)
    roll = np.zeros((3, 88), np.int64)
    once = Roll(1).with_note(roll, 1, 60, 0, True)
    assert np.argwhere(once).tolist() == [[1, 60 - LOWEST]]
    assert not Roll(1).with_note(once, 1, 60, 0, False).any()
    assert not roll.any()


def test_voices_refuse_chords_and_other_numbers_of_voices():
    with pytest.raises(DataError, match=r"two voices has 2 voices, expected 4"):
        Voices(4, 4).encode(chord_tune())
    chord = Tune("chord", (Note(480, 9, 60), Note(480, 9, 64)), 960)
    with pytest.raises(DataError, match=r"two notes at once in voice 1, at quarter note 1"):
        Voices(4, 1).encode(chord)


def test_events_are_in_the_order_of_time_and_come_back():
    tune = chord_tune()
    encoding = Events.learn([tune], 2)
    assert (encoding.line, encoding.velocities, encoding.meters) == (False, True, ("3/4",))
    steps = encoding.encode(tune)
    names = [encoding.names[k] for k in steps[:, 0]]
    assert names[:9] == [
        *("meter:3/4", "velocity:5", "on:72", "velocity:4", "on:48", "shift:2"),
        *("off:72", "velocity:3", "on:74"),
    ]
    assert names[-5:] == ["on:50", "shift:6", "off:50", "bar", "end"]
    back = encoding.decode(steps, "back")
    places = [(n.start, n.length, n.pitch) for n in back.notes]
    assert places == [(n.start, n.length, n.pitch) for n in tune.notes]
    assert (back.bars, back.meter) == (tune.bars, tune.meter)


def test_in_one_line_a_note_ends_the_note_before_it():
    tune = line_of(chord_tune())
    encoding = Events.learn([tune], 2)
    names = [encoding.names[k].partition(":")[0] for k in encoding.encode(tune)[:, 0]]
    assert encoding.line
    assert names.count("off") == 2  # before the rest, and at the end
    assert encoding.decode(encoding.encode(tune), "back").notes[0].length == TICKS


@pytest.mark.parametrize("encoding", [Roll(2), Voices(2, 2), Events(2)])
def test_transposed_steps_are_the_steps_of_the_transposed_tune(encoding):
    tune = chord_tune()
    low, high = encoding.pitches(encoding.encode(tune))
    assert (low, high) == (48 - LOWEST, 76 - LOWEST)
    moved = encoding.transposed(encoding.encode(tune), 3)
    assert np.array_equal(moved, encoding.encode(tune.transposed(3)))


def test_keys_and_bars():
    plain = [to_plain_key(sharps) for sharps in range(-6, 7)]
    assert plain == [-6, -1, 4, -3, 2, -5, 0, 5, -2, 3, -4, 1, -6]
    tune = Tune("d", tuple(Note(0, 1, p) for p in (62, 66, 69, 65)), 10, sharps=2)
    assert in_key(tune, 2) == (3, 4)
    assert in_key(tune.transposed(to_plain_key(2)), 0) == (3, 4)
    assert tune.transposed(to_plain_key(2)).sharps == 0
    assert bar_ticks((6, 8)) == 1440
    bars = (0, 240, 1680, 3000, 4440, 5000)
    assert full_bars(replace(tune, bars=bars), (6, 8)) == (2, 3)
    assert chord_tune().before(TICKS + 60).end == TICKS + 60
    assert [n.length for n in chord_tune().before(TICKS + 60).notes] == [480, 540, 60]
