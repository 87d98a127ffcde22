"""Dates in words into dates in digits: python examples/translation.py [PICTURE]

In words the day comes first and the year last, in digits the other way round: the alignment shows it.
"""

import sys
from datetime import date, timedelta

import numpy as np

from gatewise import Translator
from gatewise.report.alignment import alignment_figure

# fmt: off
ONES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
        "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"]
TENS = ["", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
# fmt: on


def words(n: int) -> str:
    return ONES[n] if n < 20 else f"{TENS[n // 10]} {ONES[n % 10]}".removesuffix(" zero")


def spoken(day: date) -> str:
    year = f"{words(day.year // 100)} {words(day.year % 100)}"
    return f"the {words(day.day)} of {day:%B} {year}".lower()


draw = np.random.default_rng(0)
days = [date(1900, 1, 1) + timedelta(int(n)) for n in draw.integers(0, 45_000, 3000)]
corpus = [spoken(day) for day in days], [" ".join(str(day)) for day in days]
sizes = dict(embedding=32, hidden=64, epochs=8, learning_rate=0.01)
model = Translator(unit="word", bleu_words="none", **sizes).fit(corpus)
print(model.evaluate(corpus).table())
(found,) = model.translate(["the twenty one of july nineteen sixty nine"])
print(f"\n{' '.join(found.source)} → {found.text}")
if len(sys.argv) > 1:
    alignment_figure(found.source, found.pieces, found.alignment).savefig(sys.argv[1], dpi=120)
