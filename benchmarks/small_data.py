"""Classifier and Regressor with their defaults on small data, beside the field's simple methods.

The sets are those of small_sets.py. Each model is scored by cross-validation on the part to learn from, on which
the defaults were chosen, and once on the test part, on which nothing was chosen. The peers are 1-NN with dynamic time
warping and ROCKET (Dempster et al. 2020: 10,000 random convolutions and ridge), both aeon's, and the majority class or
the mean. ROCKET reads shorter sequences with zeros behind them. Scores are accuracy, and R² for numbers.

aeon 1.6 needs numpy < 2.4, so it has an environment of its own: `pip install aeon` beside gatewise there.

    OMP_NUM_THREADS=1 python benchmarks/small_data.py [--only GunPoint digits] [--folds 2] [--processes 2]
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from aeon.classification.convolution_based import RocketClassifier
from aeon.classification.distance_based import KNeighborsTimeSeriesClassifier
from aeon.regression.convolution_based import RocketRegressor
from aeon.regression.distance_based import KNeighborsTimeSeriesRegressor
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.metrics import accuracy_score, r2_score
from sklearn.model_selection import KFold, StratifiedKFold

from gatewise import Classifier, Regressor
from gatewise.bench.machine import describe
from small_sets import CLASSES, NUMBERS, Array, Part

THREADS = torch.get_num_threads()
OUT = Path("benchmarks/results/small_data.json")

SETS = {"classes": CLASSES, "numbers": NUMBERS}


def as_given(X: list[Array], steps: int) -> list[Array]:
    return X


def as_lists(X: list[Array], steps: int) -> list[Array]:
    """aeon's order: channels × steps."""
    return [x.T for x in X]


def as_array(X: list[Array], steps: int) -> Array:
    """N × channels × steps, zeros behind the end of each sequence."""
    return np.stack([np.pad(x, ((0, steps - len(x)), (0, 0))).T for x in X])


# how each model is made, and the form of X that it reads
Model = tuple[Callable[[], Any], Callable[[list[Array], int], Any]]
CLASSIFIERS: dict[str, Model] = {
    "gatewise": (Classifier, as_given),
    "1-NN DTW": (lambda: KNeighborsTimeSeriesClassifier(distance="dtw"), as_lists),
    "ROCKET": (lambda: RocketClassifier(random_state=0), as_array),
    "majority": (DummyClassifier, as_array),
}
REGRESSORS: dict[str, Model] = {
    "gatewise": (Regressor, as_given),
    "1-NN DTW": (lambda: KNeighborsTimeSeriesRegressor(distance="dtw"), as_lists),
    "ROCKET": (lambda: RocketRegressor(random_state=0), as_array),
    "mean": (DummyRegressor, as_array),
}


def score(model: Model, learn: Part, test: Part, metric: Callable[..., float]) -> float:
    """Of the model, learned from one part, on the other."""
    make, form = model
    torch.set_num_threads(THREADS)  # aeon's 1-NN with DTW changes the number of the whole process
    steps = max(len(x) for x in learn.X + test.X)
    fitted = make().fit(form(learn.X, steps), learn.y)
    return float(metric(test.y, fitted.predict(form(test.X, steps))))


def compare(kind: str, name: str, count: int) -> dict[str, Any]:
    """Each model's mean score over ``count`` folds, its score on the test part, and the seconds of that."""
    warnings.simplefilter("ignore")
    numbers = kind == "numbers"
    learn, test = SETS[kind][name]()
    models, metric = (REGRESSORS, r2_score) if numbers else (CLASSIFIERS, accuracy_score)
    cut = KFold if numbers else StratifiedKFold
    folds = list(cut(count, shuffle=True, random_state=0).split(np.zeros(len(learn.y)), learn.y))
    lengths = sorted({len(x) for x in learn.X})
    found: dict[str, Any] = dict(
        samples=len(learn.X),
        test_samples=len(test.X),
        steps=[lengths[0], lengths[-1]],
        channels=learn.X[0].shape[1],
    )
    if not numbers:
        found["classes"] = len(np.unique(learn.y))
    found |= dict(cross_validation={}, test={}, seconds={})
    for model_name, model in models.items():
        each = [score(model, learn.chosen(a), learn.chosen(b), metric) for a, b in folds]
        begun = time.perf_counter()
        found["test"][model_name] = round(score(model, learn, test, metric), 4)
        found["seconds"][model_name] = round(time.perf_counter() - begun, 1)
        found["cross_validation"][model_name] = round(float(np.mean(each)), 4)
    return found


def means(results: dict[str, Any]) -> dict[str, Any]:
    """Each model's mean over the sets, and that of the better of the two peers on each set."""
    found: dict[str, Any] = dict(sets=len(results))
    for part in ("cross_validation", "test"):
        scores = [each[part] for each in results.values()]
        mean = {name: float(np.mean([s[name] for s in scores])) for name in scores[0]}
        best = [max(s["1-NN DTW"], s["ROCKET"]) for s in scores]
        mean["better peer on each set"] = float(np.mean(best))
        found[part] = {name: round(value, 4) for name, value in mean.items()}
    return found


def main() -> None:
    names = [name for sets in SETS.values() for name in sets]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="SET")
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=1)
    given = parser.parse_args()
    report: dict[str, Any] = dict(
        machine=describe() | dict(threads=torch.get_num_threads(), aeon=version("aeon")),
        folds=given.folds,
        processes=given.processes,
    )
    wanted = [(kind, name) for kind, sets in SETS.items() for name in sets]
    wanted = [each for each in wanted if each[1] in given.only]
    done: dict[tuple[str, str], Any] = {}
    with ProcessPoolExecutor(given.processes) as pool:
        running = {pool.submit(compare, *each, given.folds): each for each in wanted}
        for future in as_completed(running):
            kind, name = running[future]
            found = done[kind, name] = future.result()
            print(name, found["cross_validation"], found["test"], flush=True)
            for kind in SETS:
                results = {
                    name: done[k, name] for k, name in wanted if k == kind and (k, name) in done
                }
                if results:
                    report[kind] = dict(means=means(results), sets=results)
            given.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
