"""SIGINT and SIGTERM as one exception, which ends what is done in good order."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from gatewise.errors import Stopped

_AGAIN_SECONDS = 0.05


def answered(action: Callable[[], int]) -> int:
    """The exit code of ``action``, or of the signal that stopped it, which a line then tells."""
    with raised():
        try:
            return action()
        except KeyboardInterrupt as stopped:
            _ignored()
            if not getattr(stopped, "told_elsewhere", False):
                notes = getattr(stopped, "__notes__", None) or ["stopped"]
                print("gatewise:", "; ".join(notes), file=sys.stderr)
            return 128 + getattr(stopped, "number", int(signal.SIGINT))


@contextmanager
def deferred() -> Iterator[None]:
    """Within the block SIGINT and SIGTERM are held back until its end. A process started here has SIGINT
    blocked; its parent ends it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    waiting: list[int] = []
    before = {
        each: signal.signal(each, lambda number, _: waiting.append(number)) for each in _heeded()
    }
    masks = hasattr(signal, "pthread_sigmask")
    if masks:  # what a new process inherits; here other threads still get it
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, signal.SIG_DFL if handler is None else handler)
        if masks:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number in waiting[:1]:
            signal.raise_signal(number)


@contextmanager
def restored() -> Iterator[None]:
    """The handlers of SIGINT and SIGTERM are afterwards what they were; a SIGTERM that would end the
    process raises :class:`Stopped` within."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set them
        return
    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    if before[signal.SIGTERM] is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _raise)
    try:
        yield
    finally:
        for each, handler in before.items():
            if handler is not None:  # None: one that wasn't set from Python
                signal.signal(each, handler)


@contextmanager
def raised() -> Iterator[None]:
    """Within, both raise :class:`Stopped`, but never inside of an import, which another module's code
    might take for a failure or end in a traceback: then as soon as that is done."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers: dict[int, Any] = dict.fromkeys(_heeded(), _raise_after_imports)
    if handlers and hasattr(signal, "SIGALRM"):
        handlers[signal.SIGALRM] = _again
    before = {each: signal.signal(each, handler) for each, handler in handlers.items()}
    try:
        yield
    finally:
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0)
        _waiting.clear()
        for each, handler in before.items():
            signal.signal(each, signal.SIG_DFL if handler is None else handler)


def _heeded() -> list[signal.Signals]:
    """Those of SIGINT and SIGTERM that are not ignored: a shell script's background jobs ignore SIGINT."""
    both = (signal.SIGINT, signal.SIGTERM)
    return [each for each in both if signal.getsignal(each) is not signal.SIG_IGN]


def _raise(number: int, frame: FrameType | None) -> None:
    raise Stopped(number)


_waiting: list[int] = []


def _raise_after_imports(number: int, frame: FrameType | None) -> None:
    if _importing(frame) and hasattr(signal, "setitimer"):
        _waiting.append(number)
        signal.setitimer(signal.ITIMER_REAL, _AGAIN_SECONDS)
        return
    raise Stopped(number)


def _again(number: int, frame: FrameType | None) -> None:
    if _waiting:
        signal.raise_signal(_waiting.pop())  # to whatever handler it has by now


def _importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


def _ignored() -> None:
    """From here on neither stops the process: it is ending already."""
    if threading.current_thread() is threading.main_thread():
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_IGN)


def translated(ended: SystemExit) -> KeyboardInterrupt:
    """The exception that stopped Lightning's trainer, of which it has made a SystemExit."""
    stopped = ended.__context__
    return stopped if isinstance(stopped, KeyboardInterrupt) else Stopped(signal.SIGTERM)
