"""Beam search of a translator beside the same loop over torch.nn.LSTM.

The model is a saved one, so that both search with the same weights and find the same translations. The search is one
loop for both; what differs is the encoder, the step of the decoder's layers, and linear layers. Both are in float32.
The speed of training is measured by applications.py.

Other programs may share the machine, so that times are CPU seconds of the process; contenders take turns.

    OMP_NUM_THREADS=1 python benchmarks/translation.py RUN DATA

RUN is a folder that ``gatewise fit translate`` wrote, and DATA what it was tested on.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import gatewise as gw
from applications import TORCHS_OWN, TorchLayer, on_torch, patched
from gatewise.bench.machine import describe
from gatewise.tasks.text.parallel import ParallelReader
from gatewise.tasks.text.translate import Translator

OUT = Path("benchmarks/results/translation.json")
TEXTS, BEAM, ROUNDS = 100, 4, 3


class StreamedLayer(TorchLayer):
    """torch's layer, which can be called one step at a time as gatewise's."""

    def stream(self, batch: int) -> TorchStream:
        zeros = torch.zeros(1, batch, self.layer.hidden_size)
        return TorchStream(self.layer, (zeros, zeros))


class TorchStream:
    """One step of torch's layer a call."""

    def __init__(self, layer: nn.RNNBase, state: tuple[Tensor, ...]) -> None:
        self.layer, self.state = layer, state

    def select(self, rows: Tensor) -> None:
        self.state = tuple(each[:, rows] for each in self.state)

    def step(self, row: Tensor) -> np.ndarray:
        output, self.state = self.layer(row[:, None], tuple(s.contiguous() for s in self.state))
        return output[:, 0].numpy()


def with_torchs_layers(model: Translator) -> Translator:
    """The model with torch's layers, of the same weights."""
    model = copy.deepcopy(model)
    network: Any = on_torch(model.network_)
    for name in ("decoder", "second"):
        setattr(network, name, StreamedLayer(getattr(network, name).layer))
    model.network_ = network.eval()
    return model


def searching(model: Translator, texts: list[str]) -> dict[str, Any]:
    """CPU seconds of a beam search over the texts: all in batches of similar length, and one text at a time."""
    models = {"gatewise": model, "torch": with_torchs_layers(model)}
    found: dict[str, Any] = {}
    for way, groups in {"together": [texts], "one by one": [[each] for each in texts]}.items():
        seconds: dict[str, list[float]] = {name: [] for name in models}
        translations: dict[str, list[str]] = {}
        for _ in range(ROUNDS):
            for name, each in models.items():
                begun = time.process_time()
                with patched(TORCHS_OWN if name == "torch" else {}):
                    said = [t.text for group in groups for t in each.translate(group, beam=BEAM)]
                seconds[name].append(time.process_time() - begun)
                translations[name] = said
        least = {name: min(times) for name, times in seconds.items()}
        found[way] = dict(
            cpu_seconds={name: round(value, 3) for name, value in least.items()},
            of_torch=round(least["gatewise"] / least["torch"], 3),
            equal_translations=sum(map(str.__eq__, *translations.values())),
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("run", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    model = gw.load(given.run)
    assert isinstance(model, Translator)
    read = ParallelReader(model.source, model.into).read_source(given.data)
    texts = list(islice(read, TEXTS))
    found = dict(
        machine=describe() | dict(threads=torch.get_num_threads()),
        direction=f"{model.source} to {model.into}",
        beam=BEAM,
        texts=len(texts),
        **searching(model, texts),
    )
    text = json.dumps(found, indent=1)
    given.out.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
