"""Beam search, beside all sequences listed one by one; and the step decoder beside the network."""

from __future__ import annotations

import itertools

import pytest
import torch

from gatewise.data.tokens import BEGIN, END, PAD
from gatewise.models.beam import beam_search, largest
from gatewise.models.translation import StepDecoder, TranslationNetwork, TranslationShape

SYMBOLS = (0, 1)  # beside the beginning, 2, and the end, 3


def log_p(source: int, history: tuple[int, ...]) -> torch.Tensor:
    """Log probabilities of the next symbol, drawn anew for each source and history."""
    seed = 7919 * source + sum(3**k * (each + 1) for k, each in enumerate(history))
    logits = torch.randn(4, generator=torch.Generator().manual_seed(seed))
    logits[2] = -1e9
    return logits.log_softmax(-1)


class Histories:
    """A decoder that remembers all symbols, with an attention that says how many they are."""

    def __init__(self, sources: int, rows: int) -> None:
        self.sources, self.most = torch.arange(sources), rows
        self.seen = torch.zeros(sources, 1, 0, dtype=torch.long)
        self.asked = 0

    def step(self, symbols):
        self.asked += symbols.numel()
        self.seen = torch.cat([self.seen, symbols[..., None]], -1)
        found = [
            torch.stack([log_p(int(source), tuple(row.tolist())) for row in rows])
            for source, rows in zip(self.sources, self.seen, strict=True)
        ]
        return torch.stack(found), self.seen.sum(-1, keepdim=True).float()

    def select(self, sources, rows):
        assert rows.shape[1] <= self.most
        self.seen, self.sources = self.seen[sources[:, None], rows], self.sources[sources]


def best_of_all(source: int, limit: int, normalisation: float) -> tuple[float, tuple[int, ...]]:
    found = []
    for length in range(limit):
        for sequence in itertools.product(SYMBOLS, repeat=length):
            score, history = 0.0, (2,)
            for symbol in (*sequence, 3):
                score += float(log_p(source, history)[symbol])
                history = (*history, symbol)
            found.append((score / (length + 1) ** normalisation, sequence))
    return max(found)


@pytest.mark.parametrize("normalisation", [0.0, 0.6, 1.0])
def test_a_beam_of_all_rows_finds_the_best_of_all_sequences(normalisation):
    limits = torch.tensor([4, 3, 5, 2, 4, 1])
    found = beam_search(Histories(6, 40), limits, 2, 3, 40, normalisation)
    for source, each in enumerate(found):
        score, sequence = best_of_all(source, int(limits[source]), normalisation)
        assert tuple(each.symbols.tolist()) == sequence
        assert each.score == pytest.approx(score, abs=1e-5)


def test_the_attention_is_that_of_the_hypothesis():
    for each in beam_search(Histories(6, 3), torch.full((6,), 6), 2, 3, 3):
        symbols = each.symbols
        before = torch.cat([torch.tensor([2]), symbols])[: len(symbols)]
        assert each.weights[:, 0].tolist() == before.cumsum(0).tolist()


def test_a_beam_of_one_is_greedy():
    for source, each in enumerate(beam_search(Histories(6, 1), torch.full((6,), 5), 2, 3, 1)):
        history = (2,)
        for symbol in each.symbols.tolist():
            assert symbol == int(log_p(source, history).argmax())
            history = (*history, symbol)
        if len(each.symbols) < 5:
            assert int(log_p(source, history).argmax()) == 3


def test_a_result_does_not_depend_on_the_other_sources():
    limits = torch.tensor([3, 6, 2, 5])
    together = beam_search(Histories(4, 3), limits, 2, 3, 3)
    first = beam_search(Histories(2, 3), limits[:2], 2, 3, 3)
    for one, other in zip(first, together, strict=False):
        assert one.symbols.tolist() == other.symbols.tolist()
        assert one.score == other.score


def test_finished_sources_are_dropped():
    limits = torch.tensor([2] * 32 + [6])
    decoder = Histories(33, 3)
    beam_search(decoder, limits, 2, 3, 3)
    assert decoder.asked < 33 + 33 * 3 + 4 * 3 + 1


@pytest.mark.parametrize("width", [40, 2560, 2600])
def test_the_largest_numbers_of_a_row(width):
    x = torch.randn(5, width, generator=torch.Generator().manual_seed(0))
    x[0, -3:] = torch.tensor([7.0, 9.0, 8.0])  # the largest in one block, the last
    x[1] = -torch.inf
    x[1, 100 % width] = 0.0
    expected, places = x.topk(8)
    values, found = largest(x, 8)
    assert values.equal(expected)
    assert found[0].equal(places[0])
    assert found[2:].equal(places[2:])
    assert x.gather(1, found).equal(values)


class LateEnds:
    """A decoder of four symbols, whose sequences end with a probability of 0.97 after three symbols."""

    steps = 0

    def step(self, symbols):
        end = 0.01 if self.steps < 3 else 0.97
        self.steps += 1
        log_p = torch.tensor([0.9 * (1 - end), 0.1 * (1 - end), 0, end]).log()
        return log_p.repeat(*symbols.shape, 1), torch.ones(*symbols.shape, 1)

    def select(self, sources, rows):
        pass


@pytest.mark.parametrize("beam", [5, 8, 12])
def test_rows_without_a_hypothesis_do_not_end(beam):
    (found,) = beam_search(LateEnds(), torch.tensor([6]), 2, 3, beam)
    assert found.symbols.tolist() == [0, 0, 0]
    expected = (3 * torch.tensor(0.9 * 0.99).log() + torch.tensor(0.97).log()) / 4
    assert found.score == pytest.approx(float(expected), abs=1e-6)


@pytest.fixture
def network() -> TranslationNetwork:
    torch.manual_seed(0)
    return TranslationNetwork(TranslationShape(9, 8, 5, 6, 2, 0.3)).eval()


@torch.no_grad()
def test_steps_give_what_the_network_gives_for_the_whole_target(network):
    source = torch.tensor([[4, 5, 6, 3], [7, 3, PAD, PAD]])
    lengths = torch.tensor([4, 2])
    target = torch.tensor([[BEGIN, 4, 5], [BEGIN, 6, 7]])
    vectors, weights = network(source, lengths, target)
    whole = network.logits(vectors).log_softmax(-1)
    decoder = StepDecoder(network, network.encode(source, lengths), 2)
    decoder.select(torch.arange(2), torch.zeros(2, 2, dtype=torch.long))
    for k in range(3):
        log_p, found = decoder.step(target[:, k : k + 1].expand(2, 2))
        for row in range(2):
            torch.testing.assert_close(log_p[:, row], whole[:, k])
            torch.testing.assert_close(found[:, row], weights[:, k])
    assert weights[1, :, 2:].abs().max() == 0


@torch.no_grad()
def test_rows_are_selected_and_sources_kept_with_their_states(network):
    source = torch.tensor([[4, 5, 3], [7, 6, 3]])
    decoder = StepDecoder(network, network.encode(source, None), 2, (PAD, BEGIN))
    decoder.step(torch.full((2, 1), BEGIN))
    decoder.select(torch.arange(2), torch.zeros(2, 2, dtype=torch.long))
    decoder.step(torch.tensor([[4, 5], [6, 7]]))
    decoder.select(torch.tensor([1]), torch.tensor([[1, 1]]))
    log_p, _ = decoder.step(torch.tensor([[4, END]]))
    target = torch.tensor([[BEGIN, 7, 4], [BEGIN, 7, END]])
    vectors, _ = network(source[1:].expand(2, -1), None, target)
    expected = network.logits(vectors[:, -1]).log_softmax(-1)
    torch.testing.assert_close(log_p[0, :, 3:], expected[:, 3:])
    assert torch.isneginf(log_p[..., [PAD, BEGIN]]).all()


@torch.no_grad()
def test_padding_of_the_source_changes_nothing(network):
    target = torch.tensor([[BEGIN, 4, 5]])
    alone, weights = network(torch.tensor([[7, 3]]), None, target)
    padded, wider = network(torch.tensor([[7, 3, PAD, PAD]]), torch.tensor([2]), target)
    torch.testing.assert_close(alone, padded)
    torch.testing.assert_close(weights, wider[..., :2])
