"""A model of a text's characters: how well it predicts, and what it writes.

    python examples/text_generation.py FILE [PROMPT]

Without a file it reads the sonnets that come with the package.
"""

import sys
from importlib.resources import files

import gatewise as gw
from gatewise.train.run import Run


def main() -> None:
    sonnets = files("gatewise.data") / "examples" / "sonnets.txt"
    text = sys.argv[1] if len(sys.argv) > 1 else str(sonnets)
    prompt = sys.argv[2] if len(sys.argv) > 2 else "Shall I compare "

    model = gw.LanguageModel("char", hidden=256, layers=1, dropout=0.5, learning_rate=0.01,
                             epochs=20, batch=8, window=50)  # fmt: skip
    model.fit(text, validation=0.1, test=0.1, run=Run(quiet=True))
    evaluation = model.evaluate(text)
    print(evaluation.table(), evaluation.verdict(), sep="\n")

    for temperature in (0.4, 0.8, 1.2):
        print(f"\n--- temperature {temperature}")
        print(model.generate(prompt=prompt, length=250, temperature=temperature)[0])


if __name__ == "__main__":
    main()
