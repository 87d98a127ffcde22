"""A speech network written with torch, converted: the same outputs, in less time.

    python examples/convert.py

The network is built like Deep Speech 2 (Amodei et al. 2016): convolutions over a spectrogram, then
bidirectional GRUs over sequences of different lengths, each with batch normalisation, and the log
probabilities of letters for CTC. Nothing in it knows of gatewise.
"""

import statistics
import time

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import gatewise as gw


class BothWays(nn.Module):
    """A bidirectional GRU whose directions are added, after batch normalisation over real steps."""

    def __init__(self, inputs: int, units: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(inputs)
        self.rnn = nn.GRU(inputs, units, bidirectional=True, bias=False)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        packed = pack_padded_sequence(x, lengths, enforce_sorted=False)
        packed = packed._replace(data=self.norm(packed.data))
        self.rnn.flatten_parameters()
        output, _ = pad_packed_sequence(self.rnn(packed)[0], total_length=len(x))
        return output.view(*output.shape[:2], 2, -1).sum(2)


class DeepSpeech(nn.Module):
    """B×F×T spectrograms and their lengths to T'×B×letters log probabilities and their lengths."""

    def __init__(self, frequencies: int = 80, units: int = 256, depth: int = 3, letters: int = 29):
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(1, 16, (11, 11), stride=(2, 2), padding=(5, 5), bias=False),
            nn.BatchNorm2d(16),
            nn.Hardtanh(0, 20),
            nn.Conv2d(16, 16, (11, 11), stride=(2, 1), padding=(5, 5), bias=False),
            nn.BatchNorm2d(16),
            nn.Hardtanh(0, 20),
        )
        widths = [16 * (frequencies // 4), *[units] * depth]
        self.layers = nn.ModuleList(map(BothWays, widths, widths[1:]))
        self.letters = nn.Linear(units, letters)

    def forward(self, spectrograms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        x, lengths = self.convolutions(spectrograms[:, None]), (lengths + 1) // 2
        x = x.flatten(1, 2).permute(2, 0, 1)
        for layer in self.layers:
            x = layer(x, lengths)
        return self.letters(x).log_softmax(-1), lengths


def seconds(call, times: int = 5) -> float:
    found = []
    for _ in range(times):
        begun = time.perf_counter()
        call()
        found.append(time.perf_counter() - begun)
    return statistics.median(found)


def main() -> None:
    torch.manual_seed(0)
    theirs = DeepSpeech().eval()
    ours = gw.convert(theirs)
    print(ours.layers[0])

    spectrograms = torch.randn(8, 80, 400)  # four seconds at most
    lengths = torch.tensor([400, 322, 297, 290, 181, 154, 120, 88])
    targets = torch.randint(1, 29, (8, 20))

    def step(model: nn.Module) -> None:
        found, found_lengths = model(spectrograms, lengths)
        per_target = torch.full((8,), 20)
        nn.functional.ctc_loss(found, targets, found_lengths, per_target).backward()

    with torch.no_grad():
        expected, found = (model(spectrograms, lengths)[0] for model in (theirs, ours))
        print(f"largest difference   {(found - expected).abs().max():.1e}")
        before, after = (seconds(lambda m=m: m(spectrograms, lengths)) for m in (theirs, ours))
    print(f"inference            {before * 1e3:.0f} ms before, {after * 1e3:.0f} ms after")
    before, after = (seconds(lambda m=m: step(m)) for m in (theirs.train(), ours.train()))
    print(f"a step of training   {before * 1e3:.0f} ms before, {after * 1e3:.0f} ms after")


if __name__ == "__main__":
    main()
