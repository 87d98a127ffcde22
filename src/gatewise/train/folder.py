"""A run's folder: one run in it at a time, and its checkpoint."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO

from gatewise.errors import ModelFileError, OptionError, caution

LOCK = ".lock"

# Where in the lock file the locked byte is: on Windows what is locked cannot be read, and the number of
# the process stands at the beginning.
_BYTE = 1 << 20


def checkpoint_of(folder: Path) -> Path:
    """The file that a run in ``folder`` is resumed from."""
    return folder / "checkpoints" / "last.safetensors"


def clear(folder: Path) -> None:
    """Remove an earlier run's checkpoint, so that no later one takes it for its own."""
    last = checkpoint_of(folder)
    try:
        last.unlink(missing_ok=True)
    except OSError as error:
        raise ModelFileError(
            f"cannot remove the earlier run's checkpoint {last}: {error.strerror or error}"
        ) from error


class Claim:
    """A run's claim to its folder, from where it is taken to the end of the block. The system ends it with
    the process, however that ends."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file: IO[str] | None = None

    @property
    def held(self) -> bool:
        """Whether this process has taken it; of a training's processes the first one does."""
        return self._file is not None

    def take(self) -> None:
        """Locks the folder for this run, where it has not yet.

        Raises:
            OptionError: another run has it; the message has the number of its process.
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

    def __enter__(self) -> Claim:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        if self._file is None:
            return
        # while it is locked: whoever opened it meanwhile finds that it is not in the folder any more.
        # Windows removes no open file; there it stays, and blocks nobody.
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
                    f"{folder} is on a file system without locks ({error.strerror}): see to it that no "
                    f"other run writes there"
                )
                return file
            file.seek(0)
            holder = file.read(20).strip() or "unknown"
            file.close()
            raise OptionError(
                f"another run is going on in {folder} (process {holder}): wait for its end, or give "
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
    """Whether the open file is still the one at ``path``: its last holder may have removed it."""
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
