"""Atomic replacement of files: at any moment a reader finds the old file or the new one."""

from __future__ import annotations

import errno
import os
import re
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

from gatewise.errors import ModelFileError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

T = TypeVar("T")

_STAGED = re.compile(r"\.[0-9a-f]{32}\.part")
_RETRY_SECONDS = 5.0  # seconds of retries for a file or folder that another process holds


def write_atomically(
    folder: Path,
    contents: Mapping[str, bytes | Iterable[bytes]],
    outdated: Callable[[], Iterable[Path]] = tuple,
) -> None:
    """Writes files to a folder, each replaced atomically. The folder is made if it does not exist.

    All files are first written under temporary names. Then each is renamed to its own name, in order, so
    that a file may refer to one that comes before it.

    Args:
        folder: the folder.
        contents: the content of each file by its name, whole or in pieces.
        outdated: returns the files that have been replaced and can be deleted. It is called only while no
            other process writes to the folder.

    Raises:
        ModelFileError: a file cannot be written, for example on a full disk. The message names it. The
            old files stay.
    """
    staged = {name: folder / f".{uuid.uuid4().hex}.part" for name in contents}
    at = folder
    try:
        _make(folder)
        with _shared_lock(folder) as alone:
            try:
                for name, data in contents.items():
                    at = folder / name
                    _write(staged[name], data)
                for name, path in staged.items():
                    at = folder / name
                    retried_while_locked(partial(os.replace, path, at))
                    _sync(folder)  # before the next file, which may refer to this one
            finally:
                _remove(staged.values())
            if alone():
                _remove(path for path in folder.iterdir() if _STAGED.fullmatch(path.name))
                _remove(outdated())
    except OSError as error:
        raise ModelFileError(f"cannot write {at}: {error.strerror or error}") from error
    except ValueError as error:  # a NUL in the path
        raise ModelFileError(f"cannot write {str(at)!r}: {error}") from error


def retried_while_locked(action: Callable[[], T]) -> T:
    """The result of ``action``. On Windows it is retried for a few seconds while another process has the
    file open."""
    end = time.monotonic() + (_RETRY_SECONDS if os.name == "nt" else 0)
    while True:
        try:
            return action()
        except PermissionError:
            if time.monotonic() >= end:
                raise
            time.sleep(0.01)


def _make(folder: Path) -> None:
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for each in missing:
        _sync(each.parent)


def _write(path: Path, data: bytes | Iterable[bytes]) -> None:
    with path.open("wb") as file:
        for piece in [data] if isinstance(data, bytes) else data:
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    """Writes the folder's names to the disk, where the system can, so that a rename survives a crash."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:  # Windows, or a folder that may be written and not read
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems
            raise
    finally:
        os.close(descriptor)


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        with suppress(
            OSError
        ):  # Windows keeps files that a reader has open; the next call removes them
            path.unlink(missing_ok=True)


@contextmanager
def _shared_lock(folder: Path) -> Iterator[Callable[[], bool]]:
    """Holds a shared lock on the folder. Yields a function that tries to make the lock exclusive.

    The function returns whether this process is the only writer; False where the folder cannot be locked.
    Writers share the lock and never wait for each other. Only a process with the exclusive lock deletes
    files.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:  # Windows, or a folder that may be written and not read
        yield lambda: False
        return
    try:
        shared = _shared(descriptor)
        yield lambda: shared and _exclusive(descriptor)
    finally:
        with suppress(OSError):  # explicitly, because a forked child may have the descriptor too
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


def _shared(descriptor: int) -> bool:
    end = time.monotonic() + _RETRY_SECONDS
    while time.monotonic() < end:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.005)
        except OSError:  # a file system without locks
            return False
        else:
            return True
    return False


def _exclusive(descriptor: int) -> bool:
    try:
        fcntl.flock(
            descriptor, fcntl.LOCK_UN
        )  # so that one of two processes that end at the same time succeeds
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
