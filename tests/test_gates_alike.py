"""Find alike: the units on throughout a range, and the other ranges where they are on, by brute force."""

import numpy as np
import pytest
import torch

import gatewise as gw
from gatewise.errors import DataError, OptionError
from gatewise.gates.alike import OnIndex
from gatewise.nn.trace import Trace

# around whole bytes, where a run could be joined or cut by mistake; and sequences without steps
LENGTHS = ((7, 8, 9, 0), (16, 1, 64, 65), (63,))


def made(lengths, units, seed):
    """Traces of random runs of being on, with sequences that end while units are on."""
    random = np.random.default_rng(seed)
    for of_batch in lengths:
        h = np.full((len(of_batch), max(of_batch), units), -1.0, np.float32)
        for b, steps in enumerate(of_batch):
            for unit in range(units):
                h[b, :steps, unit] = np.repeat(random.choice([0.1, 0.4], steps), 3)[:steps]
        yield Trace({"h": [[torch.from_numpy(h)]]}, torch.tensor(of_batch))


def switches(traces):
    """Steps×H booleans of each sequence."""
    return [
        h[:steps].numpy() > 0.3
        for trace in traces
        for h, steps in zip(trace["h"][0][0], trace.lengths, strict=True)
    ]


def by_brute_force(sequences, units, leaving_out=None, least=1):
    found = []
    for k, on in enumerate(sequences):
        together = [*on[:, units].all(1), False]
        start = None
        for t, each in enumerate(together):
            if each and start is None:
                start = t
            elif not each and start is not None:
                of_given = leaving_out and leaving_out[0] == k
                overlap = of_given and start < leaving_out[2] and t > leaving_out[1]
                if not overlap and t - start >= least:
                    found.append((k, start, t))
                start = None
    return found


def ranges(found):
    table = found.table()
    return list(zip(table["sequence"], table["start"], table["stop"], strict=True))


@pytest.mark.parametrize("least", [1, 3])
def test_what_is_found_is_what_a_loop_finds(least):
    index = OnIndex(made(LENGTHS, 5, 0))
    sequences = switches(made(LENGTHS, 5, 0))
    assert index.lengths.tolist() == [n for of_batch in LENGTHS for n in of_batch]
    random, some = np.random.default_rng(1), 0
    for _ in range(120):
        k = random.choice([n for n, each in enumerate(sequences) if len(each)])
        start = random.integers(len(sequences[k]))
        stop = random.integers(start, min(len(sequences[k]), start + 4)) + 1
        units = np.flatnonzero(sequences[k][start:stop].all(0))
        found = index.alike(k, start, stop, least=least)
        assert found.units.tolist() == index.on(k, start, stop).tolist() == units.tolist()
        expected = by_brute_force(sequences, units, (k, start, stop), least) if len(units) else []
        assert ranges(found) == expected
        assert (found.stops - found.starts == found.table()["steps"]).all()
        some += len(found) > 0
    assert some > 40
    assert ranges(index.where([4, 2], least=least)) == by_brute_force(
        sequences, [2, 4], None, least
    )
    longest = index.where([1]).longest(2)
    steps = sorted((b - a for _, a, b in by_brute_force(sequences, [1])), reverse=True)
    assert (longest.stops - longest.starts).tolist() == steps[:2]


def test_units_that_switch_on_and_off_with_the_range():
    h = torch.full((1, 20, 3), 0.0)
    h[0, 4:8, 0] = h[0, :, 1] = h[0, 4:9, 2] = 1
    h[0, 15:, 0] = 1
    index = OnIndex(Trace({"h": [[h]]}, None))
    assert index.on(0, 4, 8).tolist() == [0, 1, 2]
    assert index.on(0, 4, 8, switched=True).tolist() == [0]
    assert ranges(index.alike(0, 4, 8, switched=True)) == [(0, 15, 20)]
    assert index.on(0, 0, 20, switched=True).tolist() == [1]
    nothing = index.alike(0, 0, 3, switched=True)
    assert repr(nothing) == "no unit is on throughout the range, so no other range is like it"
    assert ranges(nothing) == []
    assert "3 units on: 0, 1, 2\n0 ranges" in repr(index.alike(0, 4, 8))


def test_of_a_layer_and_any_value():
    torch.manual_seed(0)
    layer = gw.LSTM(2, 4, num_layers=2, bidirectional=True, batch_first=True)
    with torch.no_grad():
        trace = layer(torch.randn(3, 11, 2), trace=True)[2]
    index = OnIndex({"rnn": trace}, value="f", above=0.55, layer=0, direction=1)
    on = (trace["f"][0][1] > 0.55).numpy()
    assert ranges(index.where([3])) == by_brute_force(list(on), [3])
    assert repr(index) == (
        "<on/off of 'f' > 0.55 in rnn, layer 0, reverse: 4 units, 33 steps of 3 sequences>"
    )
    assert OnIndex(trace).value == "h"
    for given, message in (
        (dict(value="k"), "no 'k' in this trace; it has: i, f, g, o, c, h"),
        (dict(layer=2), "layer=2 does not exist: rnn has 2"),
        (dict(module="rn"), r"no module 'rn' \(did you mean 'rnn'\?\)"),
    ):
        with pytest.raises(OptionError, match=message):
            OnIndex({"rnn": trace}, **given)
    with pytest.raises(OptionError, match="module= must name one of the traced modules: a, b"):
        OnIndex({"a": trace, "b": trace})
    with pytest.raises(DataError, match="no sequences"):
        OnIndex([])
    with pytest.raises(OptionError, match="a batch has 3 units of 'h', and those before it have 5"):
        OnIndex([*made(LENGTHS, 5, 0), *made(LENGTHS, 3, 0)])
    with pytest.raises(OptionError, match="above must be a finite number, not nan"):
        OnIndex(trace, above=float("nan"))
    for given in ((3, 0, 1), (0, 4, 4), (0, 5, 12)):
        with pytest.raises(OptionError, match=r"does not exist|is not valid"):
            index.alike(*given)
    for given in ((-1, 0, 1), (0, 1.5, 3), ("a", 0, 1), (0, -2, 3)):
        with pytest.raises(
            OptionError, match=r"(sequence|start) must be .*, not (-1|1\.5|'a'|-2)$"
        ):
            index.alike(*given)
    for units in ([], [4], [-1], [1.5], 2, "12"):
        with pytest.raises(OptionError, match="indices from 0 to 3"):
            index.where(units)
