#!/bin/sh
# sacrebleu 2.6.0: corpus_bleu takes a list for each set of references. A flat list of references, one for each sentence,
# is read as many sets, of which each has one letter for each sentence. The score is wrong, without an error. And a
# perfect corpus whose sentences have three words scores 0.0, because it has no 4-grams.
#
# Seen:
#   a list of lists: 100.0
#   a flat list:     0.0
#   perfect sentences of three words: 0.0
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet sacrebleu==2.6.0
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import sacrebleu

texts = ["the cat sat on the mat", "a dog ran over the hill", "we eat bread and cheese"]
right = sacrebleu.corpus_bleu(texts, [texts]).score
flat = sacrebleu.corpus_bleu(texts, texts).score
short = sacrebleu.corpus_bleu(["a red house", "the old man"], [["a red house", "the old man"]]).score
print(f"a list of lists: {right:.1f}")
print(f"a flat list:     {flat:.1f}")
print(f"perfect sentences of three words: {short:.1f}")
sys.exit(0 if abs(right - 100) < 0.1 and flat < 50 and short == 0 else 1)
PYTHON
