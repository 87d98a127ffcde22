"""A limit on the memory that the import of a file may use, in proportion to the file's size."""

from __future__ import annotations

from gatewise.errors import ModelFileError

# The import copies a weight about eight times: it is split into gates, transposed, joined, given another
# dimension, converted to a type of twice the size, copied, and brought to the cell's order.
TIMES = 16
# The limit for small files, because sixteen times a tiny file is less than one layer.
FLOOR = 64 * 2**20
# Each object counts this many bytes more, so that many small objects reach the limit too.
EACH = 16 * 2**10


class Budget:
    """The bytes that the import of a file may still use.

    Memory that is freed does not count as free here, so that the limit also bounds the time: a file that
    makes the import allocate and free repeatedly reaches the limit too.

    Args:
        stored: the file's size in bytes.
    """

    def __init__(self, stored: int) -> None:
        self._stored = stored
        self._made = 0

    @property
    def limit(self) -> int:
        return TIMES * self._stored + FLOOR

    def holds(self, more: int) -> None:
        """Adds the size of another file that belongs to this one."""
        self._stored += more

    def take(self, what: str, size: int) -> None:
        """Counts ``size`` bytes; called before they are allocated.

        Raises:
            ModelFileError: the limit of this file is exceeded.
        """
        self._made += size + EACH
        if self._made > self.limit:
            raise ModelFileError(
                f"{what} needs {size} bytes, which makes {self._made} bytes for a file of {self._stored}; the limit "
                f"is {self.limit} ({TIMES} times the file's size and {FLOOR}). Give only= to read fewer "
                f"layers of a file that holds many"
            )
