"""Translation beside the same network on torch.nn.LSTM: the time of training and of beam search.

The network is that of a saved model, so that both search with the same weights. Contenders train on the same batches of
similar length, in turn: gatewise's layers with lengths; torch's with packed sequences, which give the same results; and
torch's over the padding, which do not, because the backward direction reads the padding first. torch's layers are timed
with torch's linear layer and cross entropy, and with gatewise's output layer. The search is one loop for both; what
differs is the step of the decoder's layers, which are in float32.

Other programs may share the machine, so that times are CPU seconds of the process.

    OMP_NUM_THREADS=1 python benchmarks/translation.py RUN DATA

RUN is a folder that ``gatewise fit translate`` wrote, and DATA what it was fitted to.
"""

from __future__ import annotations

import argparse
import copy
import json
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import gatewise as gw
from gatewise.bench.machine import describe
from gatewise.data.tokens import PAD
from gatewise.models.output import token_losses
from gatewise.models.translation import TranslationNetwork
from gatewise.tasks.text.parallel import ParallelReader
from gatewise.tasks.text.translate import Batch, Translator
from gatewise.train.run import Run

OUT = Path("benchmarks/results/translation.json")
STEPS = 24  # updates that are timed
TEXTS, BEAM = 100, 4


class TorchLSTM(nn.LSTM):
    """torch's LSTM, called as gatewise's: with lengths, which are packed unless ``packs`` is false, and as a
    stream."""

    packs = True

    def forward(self, x: Tensor, hx: Any = None, lengths: Tensor | None = None) -> Any:
        if lengths is None or not self.packs:
            return super().forward(x, hx)
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        output, state = super().forward(packed, hx)
        return pad_packed_sequence(output, batch_first=True, total_length=x.shape[1])[0], state

    def stream(self, batch: int) -> TorchStream:
        return TorchStream(self)


class TorchStream:
    """torch's layer, one step at a time."""

    def __init__(self, layer: TorchLSTM) -> None:
        self.layer = layer
        self.state: Any = None

    def step(self, row: Tensor) -> np.ndarray:
        output, self.state = self.layer(row[:, None], tuple(s.contiguous() for s in self.state))
        return output[:, 0].numpy()


def as_torch(network: TranslationNetwork, packs: bool) -> TranslationNetwork:
    """The network with torch's layers, of the same weights."""
    network = copy.deepcopy(network)
    for name in ("encoder", "decoder", "second"):
        ours = getattr(network, name)
        theirs = TorchLSTM(
            ours.input_size,
            ours.hidden_size,
            ours.num_layers,
            batch_first=True,
            bidirectional=ours.bidirectional,
        )
        theirs.load_state_dict(ours.state_dict())
        theirs.packs = packs
        setattr(network, name, theirs)
    return network


def torchs_losses(
    x: Tensor, weight: Tensor, bias: Tensor, target: Tensor, ignore: int, smoothing: float
) -> Tensor:
    """As :func:`token_losses`, with torch's functions."""
    kept = target != ignore
    logits = F.linear(x[kept], weight, bias)
    return F.cross_entropy(logits, target[kept], label_smoothing=smoothing, reduction="none")


class Contender:
    """A network in training, and the CPU seconds of its updates."""

    def __init__(
        self, network: TranslationNetwork, losses: Callable[..., Tensor], half: bool
    ) -> None:
        self.network, self.losses, self.half = network.train(), losses, half
        self.optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)
        self.seconds: list[float] = []

    def update(self, batch: Batch, smoothing: float) -> None:
        begun = time.process_time()
        before, after = batch.target[:, :-1], batch.target[:, 1:]
        with torch.autocast("cpu", torch.bfloat16, enabled=self.half):
            memory = self.network.encode(batch.source, batch.lengths)
            vectors, _ = self.network.decode(memory, before)
            weight, bias = self.network.target_embedding.weight, self.network.bias
            losses = self.losses(vectors, weight, bias, after, PAD, smoothing)
        loss = losses.sum() / (after != PAD).sum()
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        self.seconds.append(time.process_time() - begun)


def training(model: Translator, data: Any, steps: int, half: bool) -> dict[str, Any]:
    """CPU seconds of an epoch, from the mean of ``steps`` updates, for each contender; in bfloat16 by torch's
    autocast if ``half``, else in float32."""
    model = copy.deepcopy(model)
    prepared = model.prepare(data, 0, 0, Run(quiet=True))
    ours = model.network_
    contenders = {
        "gatewise": Contender(copy.deepcopy(ours), token_losses, half),
        "torch, packed": Contender(as_torch(ours, True), torchs_losses, half),
        "torch, packed, our output layer": Contender(as_torch(ours, True), token_losses, half),
        "torch, padded": Contender(as_torch(ours, False), torchs_losses, half),
        "torch, padded, our output layer": Contender(as_torch(ours, False), token_losses, half),
    }
    batches = iter(prepared.training)
    for _ in range(steps + 2):
        batch = next(batches)
        for each in contenders.values():
            each.update(batch, model.label_smoothing)
    number = len(prepared.training)
    found = {name: number * float(np.mean(c.seconds[2:])) for name, c in contenders.items()}
    return _rounded(found)


def searching(model: Translator, texts: list[str], rounds: int = 3) -> dict[str, Any]:
    """CPU seconds of a beam search over the texts: all in batches of similar length, and one text at a time."""
    models = {"gatewise": model, "torch": copy.deepcopy(model)}
    models["torch"].network_ = as_torch(model.network_, True).eval()
    found: dict[str, Any] = {}
    translations: dict[str, list[str]] = {}
    for way, groups in {"together": [texts], "one by one": [[each] for each in texts]}.items():
        seconds: dict[str, list[float]] = {name: [] for name in models}
        for _ in range(rounds):
            for name, each in models.items():
                begun = time.process_time()
                said = [t.text for group in groups for t in each.translate(group, beam=BEAM)]
                seconds[name].append(time.process_time() - begun)
                translations[name] = said
        found[way] = _rounded({name: min(times) for name, times in seconds.items()})
        pairs = zip(*translations.values(), strict=True)
        found[way]["equal translations"] = sum(one == other for one, other in pairs)
    return found


def _rounded(found: dict[str, float]) -> dict[str, Any]:
    """The seconds, and how many times those of gatewise each contender takes."""
    ours = found["gatewise"]
    return {
        "cpu_seconds": {name: round(value, 3) for name, value in found.items()},
        "times gatewise": {name: round(value / ours, 2) for name, value in found.items()},
    }


def measured(run: Path, data: Any, steps: int = STEPS) -> dict[str, Any]:
    """All results of this benchmark for the model in a run's folder."""
    model = gw.load(run)
    pairs = ParallelReader(model.source, model.into).read(data)
    return dict(
        machine=describe() | dict(threads=torch.get_num_threads()),
        direction=f"{model.source} to {model.into}",
        parameters=sum(p.numel() for p in model.network_.parameters()),
        training={
            name: training(model, data, steps, half)
            for name, half in (("float32", False), ("bfloat16", True))
        },
        beam_search=dict(beam=BEAM, texts=TEXTS, **searching(model, pairs.source[:TEXTS])),
        peak_memory_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("run", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--steps", type=int, default=STEPS)
    given = parser.parse_args()
    found = measured(given.run, given.data, given.steps)
    text = json.dumps(found, indent=1)
    given.out.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
