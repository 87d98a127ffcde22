"""SIGINT and SIGTERM as one exception, so that a program cleans up when it is stopped."""

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


def exit_code_of(action: Callable[[], int]) -> int:
    """The exit code of ``action``, or of the signal that stopped it, with a line on standard error."""
    with stop_signals_raised():
        try:
            return action()
        except KeyboardInterrupt as stopped:
            _ignore_signals()
            if not getattr(stopped, "reported_elsewhere", False):
                notes = getattr(stopped, "__notes__", None) or ["stopped"]
                print("gatewise:", "; ".join(notes), file=sys.stderr)
            return 128 + getattr(stopped, "number", int(signal.SIGINT))


@contextmanager
def deferred() -> Iterator[None]:
    """Delays SIGINT and SIGTERM until the end of the block. A process that is started in the block has SIGINT
    blocked; its parent stops it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    waiting: list[int] = []
    before = {
        each: signal.signal(each, lambda number, _: waiting.append(number)) for each in _handled()
    }
    masks = hasattr(signal, "pthread_sigmask")
    if masks:  # new processes inherit the mask; other threads of this one still receive SIGINT
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
def handlers_restored() -> Iterator[None]:
    """Restores the handlers of SIGINT and SIGTERM after the block. Within it a SIGTERM that would end the
    process raises :class:`Stopped`."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers
        return
    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    if before[signal.SIGTERM] is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _raise)
    try:
        yield
    finally:
        for each, handler in before.items():
            if handler is not None:  # None: a handler that was not set from Python
                signal.signal(each, handler)


@contextmanager
def stop_signals_raised() -> Iterator[None]:
    """Within the block both signals raise :class:`Stopped`, but not during an import: then after it.

    An importing module might treat the exception as a failed import, or print a traceback."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers: dict[int, Any] = dict.fromkeys(_handled(), _raise_after_imports)
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


def _handled() -> list[signal.Signals]:
    """The signals, of SIGINT and SIGTERM, that are not ignored: background jobs of a shell script ignore SIGINT."""
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
        signal.raise_signal(_waiting.pop())  # to its present handler


def _importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


def _ignore_signals() -> None:
    """Ignores both signals from here on, because the process is ending."""
    if threading.current_thread() is threading.main_thread():
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_IGN)


def interruption_of(ended: SystemExit) -> KeyboardInterrupt:
    """The exception that stopped Lightning's trainer, given the SystemExit that the trainer raised."""
    stopped = ended.__context__
    return stopped if isinstance(stopped, KeyboardInterrupt) else Stopped(signal.SIGTERM)
