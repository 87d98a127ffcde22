"""A run's folder: the path of its checkpoint, and the lock that admits one run at a time."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO

from gatewise.errors import ModelFileError, OptionError, caution

LOCK = ".lock"

# The position of the locked byte in the lock file. Windows does not let others read a locked byte, and the
# process id at the beginning of the file must be readable.
_BYTE = 1 << 20


def checkpoint_of(folder: Path) -> Path:
    """The file that a run in ``folder`` is resumed from."""
    return folder / "checkpoints" / "last.safetensors"


def clear(folder: Path) -> None:
    """Removes an earlier run's checkpoint, so that no later run resumes from it."""
    last = checkpoint_of(folder)
    try:
        last.unlink(missing_ok=True)
    except OSError as error:
        raise ModelFileError(
            f"cannot remove the earlier run's checkpoint {last}: {error.strerror or error}"
        ) from error


class FolderLock:
    """A lock on a run's folder, a context manager. ``acquire`` takes the lock; the end of the block, or of
    the process, releases it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file: IO[str] | None = None

    @property
    def held(self) -> bool:
        """Whether this process holds the lock. Of several training processes the first one does."""
        return self._file is not None

    def acquire(self) -> None:
        """Locks the folder for this run. Does nothing if this process holds the lock already.

        Raises:
            OptionError: another run holds the lock. The message has its process id.
            ModelFileError: the folder cannot be written.
        """
        if self.held:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._file = _locked(self.folder)
        except OSError as error:
            raise ModelFileError(
                f"cannot write to {self.folder}: {error.strerror or error}"
            ) from error

    def __enter__(self) -> FolderLock:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        if self._file is None:
            return
        # Removed before it is unlocked: a process that has opened it meanwhile sees that it is gone.
        # Windows cannot remove an open file; there the file remains, unlocked.
        with suppress(OSError):
            (self.folder / LOCK).unlink(missing_ok=True)
        self._file.close()
        self._file = None


def _locked(folder: Path) -> IO[str]:
    path = folder / LOCK
    while True:
        file = path.open("a+")
        try:
            _lock(file)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
                caution(
                    f"{folder} is on a file system without locks ({error.strerror}): make sure that no "
                    f"other run writes there"
                )
                return file
            file.seek(0)
            holder = file.read(20).strip() or "unknown"
            file.close()
            raise OptionError(
                f"another run is active in {folder} (process {holder}): wait until it ends, or give "
                f"another folder"
            ) from None
        if _stands(file, path):
            break
        file.close()
    file.truncate(0)
    file.write(f"{os.getpid()}\n")
    file.flush()
    return file


def _stands(file: IO[str], path: Path) -> bool:
    """Whether the open file is still the one at ``path``: its previous owner may have removed it."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _lock(file: IO[str]) -> None:
    if os.name == "nt":
        import msvcrt

        file.seek(_BYTE)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
