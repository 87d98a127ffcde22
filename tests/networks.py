"""Published networks, written with torch alone, as people write them."""

import itertools

import torch
import torch.nn.functional as F
from torch import nn


class WeightDrop(nn.Module):
    """Drops recurrent weights by putting dropped ones in the parameter's place before each call, as the
    code of Merity et al. 2018 does."""

    def __init__(self, rnn, p):
        super().__init__()
        self.rnn, self.p = rnn, p
        self.raw = nn.Parameter(rnn.weight_hh_l0.data)
        del rnn._parameters["weight_hh_l0"]
        rnn.flatten_parameters = lambda: None

    def forward(self, *args):
        dropped = F.dropout(self.raw, self.p, self.training)
        self.rnn.weight_hh_l0 = dropped.view_as(dropped)  # never the parameter itself
        return self.rnn(*args)


def locked(x, p, training):
    """Dropout with one draw for all steps of T×B×H."""
    return x * F.dropout(x.new_ones(1, *x.shape[1:]), p, training)


class AWDLSTM(nn.Module):
    """Merity et al. 2018: a language model of three LSTMs with tied embeddings."""

    def __init__(self, words=40, embedded=12, units=17):
        super().__init__()
        self.embedding = nn.Embedding(words, embedded)
        widths = [embedded, units, units, embedded]
        self.rnns = nn.ModuleList(
            WeightDrop(nn.LSTM(i, h), 0.5) for i, h in itertools.pairwise(widths)
        )
        self.decoder = nn.Linear(embedded, words)
        self.decoder.weight = self.embedding.weight

    def forward(self, words, states=(None, None, None)):
        x, after = locked(self.embedding(words), 0.4, self.training), []
        for rnn, state in zip(self.rnns, states, strict=True):
            x, state = rnn(x, state)
            x = locked(x, 0.25, self.training)
            after.append(state)
        return self.decoder(x), after


class BiLSTMCRF(nn.Module):
    """Huang et al. 2015, Lample et al. 2016: a tagger with a conditional random field over a BiLSTM."""

    def __init__(self, words=40, tags=5, embedded=8, units=14):
        super().__init__()
        self.embedding = nn.Embedding(words, embedded)
        self.lstm = nn.LSTM(embedded, units // 2, bidirectional=True, batch_first=True)
        self.scores = nn.Linear(units, tags)
        self.transitions = nn.Parameter(torch.randn(tags, tags))

    def features(self, words):
        return self.scores(self.lstm(self.embedding(words))[0])

    def forward(self, words, tags):
        """Negative log-likelihood of the tags, one of each sentence."""
        each = self.features(words)
        alpha = each[:, 0]
        score = each.gather(2, tags[..., None]).sum((1, 2))
        score = score + self.transitions[tags[:, :-1], tags[:, 1:]].sum(1)
        for step in each.unbind(1)[1:]:
            alpha = (alpha[:, :, None] + self.transitions).logsumexp(1) + step
        return alpha.logsumexp(1) - score

    def decode(self, words):
        """The best tags, by Viterbi's algorithm."""
        best, *steps = self.features(words).unbind(1)
        came = []
        for step in steps:
            best, before = (best[:, :, None] + self.transitions).max(1)
            best = best + step
            came.append(before)
        path = [best.argmax(1)]
        for before in reversed(came):
            path.append(before.gather(1, path[-1][:, None])[:, 0])
        return torch.stack(path[::-1], 1)


class VoiceActivity(nn.Module):
    """Chunks of sound one after the other through an encoder and a cell, as streaming detectors of
    voice (Silero's and others) are built; the state is the caller's."""

    def __init__(self, samples=64, units=16):
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv1d(1, 8, 8, stride=4), nn.ReLU(), nn.AdaptiveAvgPool1d(1)
        )
        self.rnn = nn.LSTMCell(8, units)
        self.decoder = nn.Sequential(nn.ReLU(), nn.Linear(units, 1), nn.Sigmoid())

    def forward(self, chunk, state=None):
        h, c = self.rnn(self.encoder(chunk[:, None])[..., 0], state)
        return self.decoder(h)[:, 0], (h, c)


class Seq2Seq(nn.Module):
    """Bahdanau et al. 2015: a bidirectional GRU read by a GRU's cell with additive attention."""

    def __init__(self, words=30, embedded=6, units=10):
        super().__init__()
        self.embedding = nn.Embedding(words, embedded)
        self.encoder = nn.GRU(embedded, units, bidirectional=True, batch_first=True)
        self.start = nn.Linear(units, units)
        self.cell = nn.GRUCell(embedded + 2 * units, units)
        self.query, self.key = nn.Linear(units, units), nn.Linear(2 * units, units)
        self.energy, self.words = nn.Linear(units, 1), nn.Linear(units, words)

    def forward(self, source, target):
        memory, last = self.encoder(self.embedding(source))
        state, keys, outputs = self.start(last[1]).tanh(), self.key(memory), []
        for word in self.embedding(target).unbind(1):
            weights = self.energy((keys + self.query(state)[:, None]).tanh()).softmax(1)
            state = self.cell(torch.cat([word, (weights * memory).sum(1)], -1), state)
            outputs.append(self.words(state))
        return torch.stack(outputs, 1)
