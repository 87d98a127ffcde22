"""How much may be made of a file: held against what it stores, and asked for before it is made."""

from __future__ import annotations

from gatewise.errors import ModelFileError

# A weight is made anew some eight times on its way into a layer: cut into gates, turned, put together,
# given another dimension, converted to a type of twice the width, copied, put in the cell's order.
TIMES = 16
# What a file may have however small it is, as sixteen times a tiny file is not one layer.
FLOOR = 64 * 2**20
# Each thing that is made costs this much besides, so that many small ones end as soon as a large one.
EACH = 16 * 2**10


class Budget:
    """Bytes that may still be made of a file.

    What is made is never given back, so that it bounds the time too: a file that makes, drops and makes
    anew ends here as one that keeps everything.

    Args:
        stored: bytes that the file holds.
    """

    def __init__(self, stored: int) -> None:
        self._stored = stored
        self._made = 0

    @property
    def limit(self) -> int:
        return TIMES * self._stored + FLOOR

    def holds(self, more: int) -> None:
        """There is another file beside this one, of so many bytes."""
        self._stored += more

    def take(self, what: str, size: int) -> None:
        """To be called before ``size`` bytes are made.

        Raises:
            ModelFileError: it is more than may be made of this file.
        """
        self._made += size + EACH
        if self._made > self.limit:
            raise ModelFileError(
                f"{what} makes {size} bytes of a file of {self._stored}, {self._made} in all; at most "
                f"{self.limit} ({TIMES} times the file and {FLOOR}) are made of it. only= reads fewer "
                f"layers of a file that holds many"
            )
