"""Single objects of a Zarr store, below the level of groups and arrays.

Stores are asynchronous. Their methods run on the event loop that Zarr itself uses, which some stores are bound to:
assumes ``zarr.core.sync.sync``.
"""

from __future__ import annotations

from dataclasses import dataclass

from zarr.abc.store import Store
from zarr.buffer import default_buffer_prototype
from zarr.core.sync import sync


@dataclass(frozen=True, slots=True)
class Objects:
    """The objects of a store by their keys.

    Parameters
    ----------
    store : zarr.abc.store.Store
    """

    store: Store

    def read(self, key: str) -> bytes | None:
        """An object, None where there is none."""
        found = sync(self.store.get(key, default_buffer_prototype()))
        return None if found is None else found.to_bytes()

    def write(self, key: str, value: bytes) -> None:
        """Put an object in the place of the one that may be there."""
        sync(self.store.set(key, default_buffer_prototype().buffer.from_bytes(value)))

    def create(self, key: str, value: bytes) -> None:
        """Write an object where there is none, else do nothing."""
        sync(self.store.set_if_not_exists(key, default_buffer_prototype().buffer.from_bytes(value)))

    def delete(self, key: str) -> None:
        """Delete an object."""
        sync(self.store.delete(key))

    def delete_below(self, name: str) -> None:
        """Delete all objects whose key begins with a name and a slash."""
        sync(self.store.delete_dir(name))

    def names(self) -> list[str]:
        """First parts of all keys."""
        return sync(self._names())

    async def _names(self) -> list[str]:
        return sorted([name.strip("/") async for name in self.store.list_dir("")])
