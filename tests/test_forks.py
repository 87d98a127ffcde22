"""What works in a forked process, and what says that it cannot."""

from __future__ import annotations

import subprocess
import sys

import pytest

# Everything is done in a process of its own: a fork of pytest's would inherit all that was used there.
CODE = """
import os, signal, sys, time
import numpy as np, torch
import gatewise as gw
from gatewise import forks

torch.set_num_threads(2)
rng = np.random.default_rng(0)
days = np.datetime64("2024-01-01", "us") + np.arange(200) * np.timedelta64(86_400_000_000, "us")
rows = {"date": days, "y": 100 + 10 * np.sin(np.arange(200) * 2 * np.pi / 7) + rng.normal(0, 1, 200)}
X = rng.normal(size=(300, 40, 8)); y = np.where(X[:, :, 0].sum(1) > 0, "a", "b")
classifier = gw.Classifier(hidden=64, epochs=2).fit(X, y)
expected = classifier.predict_proba(X)
torch.nn.Linear(512, 512)(torch.randn(4096, 512))  # torch's own threads are there for certain

def in_a_fork(action):
    sys.stdout.flush()
    process = os.fork()
    if not process:
        try:
            print(action(), flush=True)
        except gw.GatewiseError as error:
            print(type(error).__name__, error, flush=True)
        finally:
            os._exit(0)
    for _ in range(1200):
        if os.waitpid(process, os.WNOHANG)[0]:
            return
        time.sleep(0.05)
    os.kill(process, signal.SIGKILL); os.waitpid(process, 0); print("hangs")
"""

BEFORE_POLARS = """
in_a_fork(lambda: np.allclose(classifier.predict_proba(X), expected, atol=1e-9))
in_a_fork(lambda: len(gw.Regressor(hidden=64, epochs=2).fit(X, X[:, -1, 0]).predict(X)))
in_a_fork(lambda: len(gw.Forecaster(7, "y", "date", steps=9).fit(rows).predict(rows)))
in_a_fork(lambda: forks.forked())
print(forks.forked(), torch.get_num_threads())
"""

AFTER_POLARS = """
import polars as pl, tempfile
frames = [pl.DataFrame(x) for x in X]
forecaster = gw.Forecaster(7, "y", "date", steps=9).fit(pl.DataFrame(rows))
pl.DataFrame(rows).group_by("y").len()
folder = forecaster.save(tempfile.mkdtemp())
in_a_fork(lambda: forecaster.predict(rows))
in_a_fork(lambda: gw.load(folder).predict(rows))
in_a_fork(lambda: gw.Forecaster(7, "y", "date", steps=9).fit(rows))
in_a_fork(lambda: forecaster.backtest(rows))
in_a_fork(lambda: classifier.predict(frames))
in_a_fork(lambda: len(classifier.predict(X)))
print(len(forecaster.predict(rows)))
"""


def said(code: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CODE + code],
        capture_output=True,
        text=True,
        timeout=400,
        check=True,
    )
    return [line for line in done.stdout.splitlines() if line and not line.startswith("Epoch")]


@pytest.mark.slow
def test_a_fork_computes_although_torchs_threads_are_gone():
    assert said(BEFORE_POLARS) == ["True", "300", "7", "True", "False 2"]


@pytest.mark.slow
def test_a_fork_says_that_polars_cannot_read_there():
    found = said(AFTER_POLARS)
    for line in found[:5]:
        assert line.startswith("ForkError tables cannot be read in this process: it was forked")
        assert "'spawn' or 'forkserver'" in line
    assert found[5:] == ["300", "7"]
