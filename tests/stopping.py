"""A store that fails on demand."""

from __future__ import annotations

from typing import Any

from zarr.storage import MemoryStore

ENDLESS = 10**9


class StoppingStore(MemoryStore):
    """Memory that is lost after ``left`` more writes and deletions."""

    left = ENDLESS

    def _count(self) -> None:
        if self.left <= 0:
            raise ConnectionError("planted")
        self.left -= 1

    async def set(self, key: str, value: Any, byte_range: Any = None) -> None:
        self._count()
        await super().set(key, value, byte_range)

    async def set_if_not_exists(self, key: str, value: Any) -> None:
        self._count()
        await super().set_if_not_exists(key, value)

    async def delete(self, key: str) -> None:
        self._count()
        await super().delete(key)
