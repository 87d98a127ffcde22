"""Files that are replaced whole: a reader, or a kill at any moment, finds the old one or the new one."""

from __future__ import annotations

import errno
import os
import re
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
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
_PATIENCE = 5.0  # seconds for which a file or folder that another process holds is asked for again


def write_whole(
    folder: Path,
    contents: dict[str, bytes],
    outdated: Callable[[], Iterable[Path]] = tuple,
) -> None:
    """Write files to a folder, which is made if need be: all whole beside the old ones first, then each
    by one rename in its place, in their order. So a file may name one that comes before it.

    Args:
        folder: where.
        contents: each file's name and content.
        outdated: gives the files that have been replaced and can go. It is called where no other
            process is writing to the folder.

    Raises:
        ModelFileError: a file cannot be written, as on a full disk; the message names it. The old
            files stay.
    """
    staged = {name: folder / f".{uuid.uuid4().hex}.part" for name in contents}
    at = folder
    try:
        _make(folder)
        with _beside_others(folder) as alone:
            try:
                for name, data in contents.items():
                    at = folder / name
                    _write(staged[name], data)
                for name, path in staged.items():
                    at = folder / name
                    patiently(partial(os.replace, path, at))
                    _sync(folder)  # before the next one, which may name it
            finally:
                _remove(staged.values())
            if alone():
                _remove(path for path in folder.iterdir() if _STAGED.fullmatch(path.name))
                _remove(outdated())
    except OSError as error:
        raise ModelFileError(f"cannot write {at}: {error.strerror or error}") from error
    except ValueError as error:  # a NUL in the path
        raise ModelFileError(f"cannot write {str(at)!r}: {error}") from error


def patiently(action: Callable[[], T]) -> T:
    """What ``action`` gives; tried again where Windows refuses a file that another process holds."""
    end = time.monotonic() + (_PATIENCE if os.name == "nt" else 0)
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


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    """Have the folder's names on the disk, where the system can: a rename is lasting only then."""
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
        with suppress(OSError):  # Windows keeps what a reader has open; the next call removes it
            path.unlink(missing_ok=True)


@contextmanager
def _beside_others(folder: Path) -> Iterator[Callable[[], bool]]:
    """Holds a shared lock on the folder. Yields a function that tries to make it exclusive, and returns
    whether this is the only writer; False where the folder cannot be locked.

    Writers share a lock and never wait for each other; who tidies up holds it alone.
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
        with suppress(OSError):  # said aloud, as a forked child may have the descriptor too
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


def _shared(descriptor: int) -> bool:
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.005)
        except OSError:  # a file system that cannot
            return False
        else:
            return True
    return False


def _exclusive(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_UN)  # so that of two that end at once, one succeeds
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
