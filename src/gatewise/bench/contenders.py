"""Contenders in this process or in a separate one, with the same three methods."""

from __future__ import annotations

import multiprocessing
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any, Protocol

from gatewise.bench.peers import builder
from gatewise.bench.problem import Arrays, Builder, Prepared, Problem
from gatewise.bench.timing import Turn, turn
from gatewise.errors import BackendError
from gatewise.signals import deferred


class Contender(Protocol):
    """The interface of a contender. Each method raises BackendError where the contender cannot do it."""

    def prepare(self, problem: Problem) -> Arrays: ...

    def turn(self, calls: int, prime: bool) -> Turn: ...

    def close(self) -> None: ...


class Here:
    """A contender in this process: gatewise and torch, which share torch's threads."""

    def __init__(self, build: Builder) -> None:
        self._build = build
        self._ready: Prepared | None = None

    def prepare(self, problem: Problem) -> Arrays:
        self._ready = None  # releases the last row's tensors
        try:
            self._ready = self._build(problem)
            return self._ready.results()
        except BackendError:
            raise
        except Exception as error:  # a peer may raise anything; the others must still be timed
            raise BackendError(_said(error)) from error

    def turn(self, calls: int, prime: bool) -> Turn:
        assert self._ready is not None
        return turn(self._ready.call, calls, prime)

    def close(self) -> None:
        self._ready = None


class Apart:
    """A contender in a separate process, which sleeps while it waits.

    So its threads cannot disturb another contender's turn, and its crash does not end the benchmark."""

    def __init__(self, peer: str, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, peer, threads), daemon=True)
        with deferred():
            self._process.start()
        theirs.close()

    def prepare(self, problem: Problem) -> Arrays:
        return self._ask("prepare", problem)

    def turn(self, calls: int, prime: bool) -> Turn:
        return self._ask("turn", calls, prime)

    def close(self) -> None:
        self._pipe.close()
        self._process.join(5)
        if self._process.is_alive():
            self._process.terminate()

    def _ask(self, *request: Any) -> Any:
        try:
            self._pipe.send(request)
            done, answer = self._pipe.recv()
        except (EOFError, OSError) as error:
            self._process.join(5)
            raise BackendError(f"died (exit code {self._process.exitcode})") from error
        if not done:
            raise BackendError(answer)
        return answer


def _serve(pipe: Connection, peer: str, threads: int) -> None:
    """Answers requests until the other end closes."""
    contender = Here(builder(peer, threads))
    with suppress(EOFError, OSError):
        while True:
            what, *given = pipe.recv()
            try:
                answer = (True, getattr(contender, what)(*given))
            except Exception as error:
                answer = (False, str(error) if isinstance(error, BackendError) else _said(error))
            pipe.send(answer)


def _said(error: Exception) -> str:
    text = str(error).strip()
    return f"raised {type(error).__name__}: {text.splitlines()[0][:200] if text else 'no message'}"
