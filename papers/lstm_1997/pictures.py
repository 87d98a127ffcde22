"""Two figures on the purpose of the LSTM: how far back gradients reach, and a memory over a thousand steps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from gatewise.errors import OptionError, TrainingError, need
from gatewise.ink import INK, MUTED, RULE, quiet
from papers.lstm_1997.tasks import Sequences, TwoMarked
from papers.lstm_1997.today import Model, Setting, train, untrained

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLOURS = ("#0f766e", "#c2700c", "#8b93a7", "#235a86")
_MARK = "#c2700c"
_FLOOR = 1e-20  # gradients are drawn down to here


def draw(folder: Path, seed: int = 0) -> list[Path]:
    """Trains the networks of the two figures and writes ``gradients.png`` and ``memory.png``, in about a minute.

    The second figure shows the cell of 1997, which has no forget gate, in a layer of four units. It was trained
    on the adding problem of 1,000 steps, and runs a sequence of this problem that it was not trained on.

    Raises:
        TrainingError: the network of the second figure did not solve its task.
        MissingExtraError: matplotlib is not installed.
    """
    panels = gradients_of({"LSTM": "lstm", "simple RNN": "rnn_tanh"}, "4-100", seed, 100_000)
    written = [save(gradient_picture(panels), folder / "gradients.png")]
    model, result = train("4-1000", "lstm_1997", seed, 400_000, Setting(hidden=4))
    if not result.solved:
        raise TrainingError(
            f"the adding problem of 1,000 steps was not solved from seed {seed} after "
            f"{result.sequences:,} sequences; try another seed"
        )
    shown = model.task.draw(np.random.default_rng([1997, seed]), 256)
    assert shown.values is not None
    # the sequence whose second mark comes latest
    last = [int(np.flatnonzero(pairs[:, 1] == 1).max()) for pairs in shown.values]
    figure = memory_picture(model, shown, int(np.argmax(last)))
    return [*written, save(figure, folder / "memory.png")]


def gradients_of(
    cells: Mapping[str, str], experiment: str, seed: int, most: int, lags: int = 100
) -> dict[str, dict[str, np.ndarray]]:
    """:func:`gradient_by_lag` for each cell, by its name in the figure, before and after training, over 256
    sequences that no network was trained on."""
    panels: dict[str, dict[str, np.ndarray]] = {"before training": {}, "after training": {}}
    for name, cell in cells.items():
        before = untrained(experiment, cell, seed)
        after, _ = train(experiment, cell, seed, most)
        shown = before.task.draw(np.random.default_rng([1997, seed]), 256)
        for lines, model in zip(panels.values(), (before, after), strict=True):
            lines[name] = gradient_by_lag(model, shown, lags)
    return panels


def gradient_by_lag(model: Model, sequences: Sequences, lags: int) -> np.ndarray:
    """The size of the gradient of the last output with respect to the input k steps before, for each k.

    Hochreiter 1991 and Bengio et al. 1994, "Learning Long-Term Dependencies with Gradient Descent is Difficult",
    section III, measure the same for states: the product of the Jacobians of the steps.

    Args:
        model: a model of a task that is judged at the end.
        sequences: n sequences. One that is shorter than ``lags`` counts for the lags that it has.
        lags: K, the number of lags.

    Returns:
        K values of ‖∂y(T)/∂x(T-k)‖, k from 0, where y is the sum of the outputs: the root mean square over the
        sequences.

    Raises:
        OptionError: the task is judged at each step, or no sequence has ``lags`` steps.
    """
    if model.task.each_step:
        raise OptionError(
            "gradient_by_lag takes a task that is judged at the end, not at each step"
        )
    longest = int(sequences.lengths.max())
    if not 1 <= lags <= longest:
        raise OptionError(
            f"lags must be from 1 to the longest sequence's {longest} steps, not {lags}"
        )
    # in float64, because a float32 gradient of a simple network underflows
    twin = Model(model.task, model.layer.cell.name, model.layer.hidden_size).double()
    twin.load_state_dict(model.state_dict())
    x = torch.from_numpy(sequences.inputs(model.task.inputs)).double().requires_grad_()
    output = twin.activation(twin(x, torch.from_numpy(sequences.lengths)))
    (slope,) = torch.autograd.grad(output.sum(), x)
    squares = slope.square().sum(-1).numpy().T
    at = sequences.lengths[:, None] - 1 - np.arange(lags)
    there = at >= 0
    back = np.take_along_axis(squares, at.clip(0), 1)
    mean: np.ndarray = (back * there).sum(0) / there.sum(0)
    return np.sqrt(mean)


def gradient_picture(panels: Mapping[str, Mapping[str, np.ndarray]]) -> Figure:
    """A figure of gradients against the lag, on a logarithmic scale.

    ``panels`` has for each panel's title its lines by name, each from :func:`gradient_by_lag`.

    Raises:
        OptionError: there is no panel, or a panel has no line.
        MissingExtraError: matplotlib is not installed.
    """
    if not panels or not all(panels.values()):
        raise OptionError(
            "gradient_picture needs at least one panel, and each needs at least one line"
        )
    figure = need("matplotlib.figure", "tasks").Figure(
        figsize=(4.6 * len(panels) + 0.6, 3.5), layout="constrained"
    )
    axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    names = list(dict.fromkeys(name for lines in panels.values() for name in lines))
    for axis, (title, lines) in zip(axes, panels.items(), strict=True):
        for name, values in lines.items():
            colour = _COLOURS[names.index(name) % len(_COLOURS)]
            shown = np.where(values > _FLOOR, values, np.nan)
            axis.plot(np.arange(len(values)), shown, color=colour, lw=1.8, label=name)
        axis.set_yscale("log")
        quiet(axis)
        axis.set_xlabel("steps back from the end", fontsize=8.5, color=MUTED)
        axis.set_title(title, loc="left", fontsize=9.5, color=INK)
        axis.grid(axis="y", color=RULE, lw=0.5, alpha=0.6)
        axis.set_xlim(0, max(map(len, lines.values())) - 1)
    axes[0].legend(frameon=False, fontsize=9, labelcolor=INK, loc="lower left")
    axes[0].set_ylabel("gradient of the output by the input", fontsize=8.5, color=MUTED)
    return figure


@torch.no_grad()
def carrying_unit(model: Model, sequences: Sequences) -> int:
    """The unit whose cell state stores the marked values but no others, in the adding or multiplication problem.

    For each unit, the covariance of the marked values and the changes of the state at these steps is computed,
    and from it that of the next values and changes is subtracted. The result is the unit with the largest
    difference."""
    assert sequences.values is not None
    x = torch.from_numpy(sequences.inputs(model.task.inputs))
    _, _, trace = model.layer(x, lengths=torch.from_numpy(sequences.lengths), trace=True)
    state, value = trace.c[0][0].numpy(), sequences.values[..., 0]
    k, at = np.nonzero(sequences.values[..., 1] == 1)  # never the first step, nor the last

    def covariance(at: np.ndarray) -> np.ndarray:
        found: np.ndarray = (value[k, at] - value[k, at].mean()) @ (state[k, at] - state[k, at - 1])
        return found

    return int(np.abs(covariance(at) - covariance(at + 1)).argmax())


def memory_picture(model: Model, sequences: Sequences, which: int = 0) -> Figure:
    """A figure of one sequence of the adding or the multiplication problem.

    It shows the values with the two marks, and the cell state and the gates of the unit that stores the answer.

    Args:
        model: a model whose cell has a state ``c``.
        sequences: the sequences by which the unit is chosen (:func:`carrying_unit`).
        which: the index of the sequence that is shown.

    Raises:
        OptionError: the task is another one, the cell has no state c, or there is no such sequence.
        MissingExtraError: matplotlib is not installed.
    """
    if not isinstance(model.task, TwoMarked):
        raise OptionError(
            "memory_picture needs a model of experiment 4 or 5, whose sequences have two marks"
        )
    cell = model.layer.cell
    if "c" not in cell.state:
        raise OptionError(
            f"memory_picture needs a state c; {cell.name} has {', '.join(cell.state)}"
        )
    if not 0 <= which < len(sequences):
        raise OptionError(f"which must be from 0 to {len(sequences) - 1}, not {which}")
    values, marks, traced, output = _followed(model, sequences, which)
    figure = need("matplotlib.figure", "tasks").Figure(figsize=(9.2, 5.4), layout="constrained")
    figure.get_layout_engine().set(h_pad=0.06, hspace=0.03)
    top, middle, bottom = figure.subplots(3, 1, sharex=True, height_ratios=[0.9, 1.5, 1.1])
    _inputs(top, values, marks)
    steps = np.arange(len(values))
    middle.plot(steps, traced["c"], color=_COLOURS[0], lw=1.8)
    middle.set_title("the cell state of one unit", loc="left", fontsize=9, color=INK)
    for gate in ("o", "f", "i"):  # the input gate on top
        if gate in traced:
            name, colour = _GATES[gate]
            bottom.plot(steps, traced[gate], color=colour, lw=1.2, label=name)
    bottom.set_title("its gates, from 0 (shut) to 1 (open)", loc="left", fontsize=9, color=INK)
    bottom.set_ylim(-0.03, 1.03)
    bottom.legend(
        frameon=False,
        fontsize=8,
        labelcolor=INK,
        ncols=3,
        loc="lower right",
        bbox_to_anchor=(1, 0.98),
    )
    for axis in (top, middle, bottom):
        quiet(axis)
        for mark in marks:
            axis.axvline(mark, color=_MARK, lw=0.9, ls=(0, (3, 3)), zorder=0)
    bottom.set_xlabel("step", fontsize=8.5, color=MUTED)
    bottom.set_xlim(-0.01 * len(values), 1.01 * len(values))
    target = float(sequences.targets[which, 0])
    middle.annotate(
        f"answer {output:.2f}, wanted {target:.2f}",
        (1, 1.02), xycoords="axes fraction", ha="right", va="bottom", fontsize=8.5, color=MUTED,
    )  # fmt: skip
    return figure


_GATES = {
    "i": ("input gate", _MARK),
    "f": ("forget gate", _COLOURS[0]),
    "o": ("output gate", "#8fb3cf"),
}


def save(figure: Figure, path: Path) -> Path:
    """Writes a figure in the format of the path's suffix: png, svg, pdf."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    return path


@torch.no_grad()
def _followed(
    model: Model, sequences: Sequences, which: int
) -> tuple[np.ndarray, np.ndarray, Mapping[str, np.ndarray], float]:
    """The values of a sequence, the steps of its marks, the traced values of the chosen unit, and the answer."""
    assert sequences.values is not None
    steps = int(sequences.lengths[which])
    pairs = sequences.values[which, :steps]
    x = torch.from_numpy(pairs[:, None].copy())
    output, _, trace = model.layer(x, trace=True)
    unit = carrying_unit(model, sequences)
    traced = {name: trace[name][0][0][0, :, unit].numpy() for name in trace.names}
    answer = float(model.head(output[-1, 0]))
    return pairs[:, 0], np.flatnonzero(pairs[:, 1] == 1), traced, answer


def _inputs(axis: Any, values: np.ndarray, marks: np.ndarray) -> None:
    axis.plot(np.arange(len(values)), values, ".", ms=2, color=RULE)
    axis.plot(marks, values[marks], "o", ms=6, color=_MARK)
    for mark in marks:
        axis.annotate(
            f"{values[mark]:+.2f}".replace("-", "−"), (mark, values[mark]), (7, 0),
            textcoords="offset points", fontsize=8.5, color=_MARK, va="center", weight="bold",
        )  # fmt: skip
    axis.set_title(
        "the values; the two marked ones are to be added", loc="left", fontsize=9, color=INK
    )
    axis.margins(y=0.12)
