#!/bin/sh
# tokenizers 0.23.3: a WordLevel tokenizer that is trained with the special token "<unk>" on a text that has the word
# "<unk>", as the Penn Treebank has, gives "<unk>" the number of the word. The number of the special token is then
# nobody's, the vocabulary is one symbol short, and get_vocab_size() is not above the greatest number: an embedding of
# that size is too small for the tokenizer's own output.
#
# Seen:
#   without the word: {'<pad>': 0, '<unk>': 1, 'the': 2, 'cat': 3, 'mat': 4, 'on': 5}, size 6
#   with the word:    {'<pad>': 0, '<unk>': 2, 'the': 3, 'cat': 4, 'on': 5}, size 5
#   "on": [5], an embedding of 5 symbols: IndexError
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet tokenizers==0.23.3 numpy==2.4.6 torch==2.13.0
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers


def trained(texts):
    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = ["<pad>", "<unk>"]
    trainer = trainers.WordLevelTrainer(vocab_size=6, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def listed(tokenizer):
    pairs = sorted(tokenizer.get_vocab().items(), key=lambda pair: pair[1])
    return dict(pairs), tokenizer.get_vocab_size()


plain = trained(["the cat sat on the mat", "the cat"])
marked = trained(["the <unk> sat on the <unk>", "<unk> the cat"])
print("without the word: {}, size {}".format(*listed(plain)))
print("with the word:    {}, size {}".format(*listed(marked)))
ids = marked.encode("on").ids
try:
    torch.nn.Embedding(marked.get_vocab_size(), 1)(torch.tensor(ids))
    outcome = "fits"
except IndexError:
    outcome = "IndexError"
print(f'"on": {ids}, an embedding of {marked.get_vocab_size()} symbols: {outcome}')
as_seen = marked.token_to_id("<unk>") == 2 and marked.get_vocab_size() == 5 and outcome == "IndexError"
sys.exit(0 if plain.token_to_id("<unk>") == 1 and as_seen else 1)
PYTHON
