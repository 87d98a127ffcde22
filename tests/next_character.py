"""A language model of characters, whose state is carried through the text: the example in CONTRIBUTING.md."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

from characters import Characters
from gatewise.arguments import Count, Positive
from gatewise.errors import DataError
from gatewise.models.language import LanguageNetwork
from gatewise.report.scores import Evaluation
from gatewise.tasks.base import Recipe, Run, Task, TrainingData, digest
from gatewise.tasks.entry_checks import count, text
from gatewise.tasks.kinds import Part, members_in, part_size


@dataclass(eq=False, repr=False)
class NextCharacter(Task):
    """Say which character comes next.

    Args:
        hidden: units of the LSTM.
        window: characters between two updates of the weights.
        passes: passes over the text.
        learning_rate: the highest learning rate of AdamW.
    """

    name, saved_attributes = "spell", {"alphabet": text, "seen": count}
    hidden: Count = 16
    window: Count = 4
    passes: Count = 6
    learning_rate: Positive = 0.02

    def prepare(self, data: Any, validation: Part, test: Part, run: Run) -> TrainingData:
        whole = Characters().read(data)
        self.seen_ = len(whole) - characters_in("test", test, len(whole))
        trained = self.seen_ - characters_in("validation", validation, self.seen_)
        if trained < 2:
            raise DataError(f"{data} has {len(whole)} characters, too few for these parts")
        self.alphabet_ = Characters().learn(whole[:trained]).alphabet
        ids = self.encoded(whole[: self.seen_])
        training = self.batches(ids[:trained])
        checks = self.batches(ids[trained:]) if trained + 1 < self.seen_ else None
        recipe = Recipe(self.passes * len(training), 1, self.learning_rate, rounds=self.passes)
        about = {"rows": len(whole), "series": 1, "span": "", "columns": {"text": digest(whole)}}
        record = self.training_record(about, validation, test, run)
        return TrainingData(training, checks, recipe, record)

    def encoded(self, text: str) -> torch.Tensor:
        return Characters(self.alphabet_).encode(text)

    def batches(self, ids: torch.Tensor) -> DataLoader:
        starts = range(0, len(ids) - 1, self.window)
        windows: Any = [ids[None, k : k + self.window + 1] for k in starts]
        return DataLoader(windows, batch_size=None)

    def build(self) -> LanguageNetwork:
        return LanguageNetwork(len(self.alphabet_), self.hidden)

    def loss(self, network: Any, batch: torch.Tensor, carry: Any) -> tuple[torch.Tensor, Any]:
        logits, carry = network(batch[:, :-1], carry)
        return F.cross_entropy(logits.mT, batch[:, 1:], reduction="none").mean(1), carry

    @torch.no_grad()
    def predict(self, data: Any) -> Any:
        import polars as pl

        logits, _ = self.network_(self.encoded(Characters().read(data))[None])
        return pl.DataFrame({"next": [self.alphabet_[int(logits[0, -1].argmax())]]})

    @torch.no_grad()
    def evaluate(self, data: Any) -> Evaluation:
        ids = self.encoded(Characters().read(data)[self.seen_ - 1 :])
        if len(ids) < 2:
            raise DataError(f"{data} has no characters after the first {self.seen_}, which fit saw")
        nll = float(F.cross_entropy(self.network_(ids[None, :-1])[0][0], ids[1:]))
        baseline = {"all alike": {"nll": float(torch.tensor(len(self.alphabet_)).log())}}
        return Evaluation(self.name, {"nll": nll}, baseline, len(ids) - 1, "characters", "nll")


def characters_in(name: str, part: Part, total: int) -> int:
    """The number of characters in a part of ``total``: the part is a share below 1, or a number."""
    return members_in(part_size(name, part), total)
