"""The run of a layer whose output another implementation has computed already.

The recurrent input of each step is then known before the run. The products with the recurrent weights of all
steps become few large ones, which take about half of the time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from gatewise.backends.contract import Outcome, differentiated
from gatewise.backends.registry import choose, run_with_output
from gatewise.nn.runs import LayerRun


@dataclass(frozen=True)
class KnownOutput:
    """A runner for traces: the last of some stacked layers is run with its known output.

    Attributes:
        last: the index of the last layer.
        output: T×B×D·P, the output of that layer.
    """

    last: int
    output: Tensor

    def __call__(self, run: LayerRun) -> Outcome:
        return self._of_last(run) or run.execute(run.x, run.state, run.masks, run.trace)

    def _of_last(self, run: LayerRun) -> Outcome | None:
        """The outcome of the last layer; None for other layers, and where no backend can use the output."""
        tensors = (run.x, *run.state, *run.weights.listed(run.cell))
        if run.layer != self.last or differentiated(tensors):
            return None
        width = run.state[0].shape[-1]
        output = self.output[..., width:] if run.reverse else self.output[..., :width]
        choice = choose(
            cell=run.cell,
            input_size=run.x.shape[-1],
            hidden_size=run.weights.input.shape[0] // len(run.cell.gates),
            proj_size=0 if run.weights.projection is None else width,
            reverse=run.reverse,
            dtype=run.x.dtype,
            device=run.x.device,
            trace=True,
        )
        return run_with_output(choice, run.x, run.state, run.weights, run.masks, output)


def time_major(output: Any, batch_first: bool) -> Tensor:
    """T×B×D·P: an output of a layer of torch."""
    if isinstance(output, PackedSequence):
        return pad_packed_sequence(output)[0]
    if output.dim() == 2:
        return output.unsqueeze(1)
    return output.transpose(0, 1) if batch_first else output
