"""A unit that counts brackets, from training to finding.

    python examples/brackets.py FOLDER

The text is words of Shakespeare's sonnets with random brackets. At the end of a line stands ";", then as many
closing brackets as are open. So a character model must know how many are open. The unit is chosen on one part
of the text and tested on another.
"""

from __future__ import annotations

import re
import sys
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

import gatewise as gw
from gatewise.train.run import Run

DEEPEST = 4
UNITS = 32
SHOWN = 130  # characters of the picture
STEPS = 1000


def bracketed(lines: int, seed: int = 0) -> list[str]:
    """Lines of 4 to 9 words with brackets; every bracket that is open at the end is closed behind the ";"."""
    sonnets = (files("gatewise.data") / "examples" / "sonnets.txt").read_text("utf-8")
    words = re.findall(r"\b[a-z]{1,5}\b", sonnets.lower())
    draw = np.random.default_rng(seed)
    found = []
    for _ in range(lines):
        text, depth = "", 0
        for word in draw.choice(words, draw.integers(4, 10)):
            if depth < DEEPEST and draw.random() < 0.4:
                text, depth = text + "(", depth + 1
            text += str(word)
            if depth and draw.random() < 0.3:
                text, depth = text + ")", depth - 1
            text += " "
        found.append(f"{text.rstrip()};{')' * depth}\n")
    return found


def depths(text: str) -> np.ndarray:
    """The number of open brackets after each character."""
    return np.cumsum([(c == "(") - (c == ")") for c in text])


def correlations(model: gw.LanguageModel, lines: list[str]) -> np.ndarray:
    """For each unit the correlation of its cell state with the number of open brackets."""
    text = "\n" + "".join(
        lines
    )  # what the model reads: the end of a line, and the text but for its last character
    states = gw.trace(model, lines)["recurrent"].c[0][0][0].numpy()
    depth = depths(text[:-1])
    return np.array([np.corrcoef(unit, depth)[0, 1] for unit in states.T])


def ends_of_lines(
    model: gw.LanguageModel, lines: list[str]
) -> tuple[np.ndarray, np.ndarray, torch.Tensor]:
    """The steps behind a ";", whether a bracket follows each (else a newline), and the symbols that are read."""
    (symbols,) = model.inputs(lines)
    text = "\n" + "".join(lines)
    last = [text.rfind("\n", 0, k + 1) < text.rfind(";", 0, k + 1) for k in range(len(text) - 1)]
    at = np.flatnonzero(last)
    return at, np.array([text[k + 1] == ")" for k in at]), symbols


def share_right(model: gw.LanguageModel, lines: list[str]) -> float:
    """The share of the steps behind a ";" at which the more probable of bracket and newline follows."""
    at, bracket, symbols = ends_of_lines(model, lines)
    with torch.no_grad():
        logits = model.network_(symbols)[0][0, at]
    index = model.tokenizer_.index
    return float(((logits[:, index[")"]] > logits[:, index["\n"]]).numpy() == bracket).mean())


def picture(model: gw.LanguageModel, lines: list[str], unit: int, path: Path) -> None:
    """Draws the unit's cell state over a text, and the number of open brackets."""
    text = "".join(lines)[:SHOWN]
    state = gw.trace(model, lines)["recurrent"].c[0][0][0, 1 : SHOWN + 1, unit]
    figure = Figure(figsize=(11, 2.6), layout="constrained")
    axis = figure.subplots()
    axis.step(range(SHOWN), depths(text), where="mid", color="#c2700c", label="open brackets")
    axis.set_ylabel("open brackets")
    axis.set_yticks(range(depths(text).max() + 1))
    axis.set_xticks(range(SHOWN), ["⏎" if c == "\n" else c for c in text], fontsize=7)
    axis.tick_params(axis="x", length=0)
    beside = axis.twinx()
    beside.plot(range(SHOWN), state, color="#155e75", label=f"cell state of unit {unit}")
    beside.set_ylabel(f"c of unit {unit}")
    figure.legend(loc="outside upper right", ncols=2, frameon=False)
    axis.margins(x=0.005)
    figure.savefig(path, dpi=110)


def main(folder: Path) -> None:
    lines = bracketed(2500)
    training, choosing, testing = lines[:2100], lines[2100:2300], lines[2300:]
    model = gw.LanguageModel(
        "char",
        hidden=UNITS,
        layers=1,
        epochs=20,
        batch=16,
        window=100,
        learning_rate=1e-2,
        dropout=0.0,
    )
    model.fit(training, validation=0.1, test=0, run=Run(quiet=True))
    folder.mkdir(parents=True, exist_ok=True)
    model.save(folder / "run")
    (folder / "text.txt").write_text("".join(testing), "utf-8")
    found = correlations(model, choosing)
    unit = int(np.abs(found).argmax())
    tested = correlations(model, testing)
    torch.manual_seed(0)
    untrained = gw.load(folder / "run")
    for weight in untrained.network_.parameters():
        torch.nn.init.uniform_(weight, -0.2, 0.2)
    before = correlations(untrained, choosing)
    first = int(np.abs(before).argmax())
    control = correlations(untrained, testing)
    print("correlation of a cell state with the number of open brackets")
    print(f"  {tested[unit]:+.3f}  unit {unit}")
    print(f"  {control[first]:+.3f}  unit {first} of a network with random weights")
    ablated = []
    for each in range(UNITS):
        with gw.gates.ablate(model.network_, "recurrent", "c", units=each, to="mean"):
            ablated.append(share_right(model, testing))
    others = np.delete(ablated, unit)
    brackets = ends_of_lines(model, testing)[1].mean()
    print("bracket or newline behind the ;, share of places where the more probable one is right")
    print(f"  {share_right(model, testing):.1%}  the model")
    print(f"  {max(brackets, 1 - brackets):.1%}  always the more frequent one")
    print(f"  {ablated[unit]:.1%}  the model with unit {unit} at its mean")
    print(
        f"  {np.median(others):.1%}  with another unit at its mean: the median; the least is {others.min():.1%}"
    )
    picture(model, testing, unit, folder / "unit.png")
    print(f"picture   {folder / 'unit.png'}")
    page = model.write_gates(folder / "text.txt", folder / "gates.html", limit=4, steps=STEPS)
    print(f"page      {page}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
