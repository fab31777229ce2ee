"""How rows are cut: into items that are read at once, blocks that are written at once, and tiles that are computed."""

from __future__ import annotations

from dataclasses import dataclass

BLOCK_BYTES = 16 * 2**20  # one chunk of what is written
TILE_VALUES = 2**16  # of one variable; its temporaries stay in the cache of a core
LOOPED_VALUES = 2**21  # where draws are computed one by one, and each call should be worth its while


@dataclass(frozen=True, slots=True)
class Grid:
    """Rows cut at three sizes, each a multiple of the next but for the last of a run.

    Parameters
    ----------
    n_rows : int
    item_rows : int
        Read at once, by one thread: as many as a chunk of the source.
    block_rows : int
        Written at once: one chunk of the result.
    tile_rows : int
        Computed at once.
    """

    n_rows: int
    item_rows: int
    block_rows: int
    tile_rows: int

    @property
    def n_items(self) -> int:
        """Number of items."""
        return -(-self.n_rows // self.item_rows)

    def item(self, number: int) -> tuple[int, int]:
        """First row of an item, and the one after its last."""
        start = number * self.item_rows
        return start, min(start + self.item_rows, self.n_rows)


def pieces(start: int, stop: int, rows: int) -> list[tuple[int, int]]:
    """Consecutive ranges of at most so many rows."""
    return [(begin, min(begin + rows, stop)) for begin in range(start, stop, rows)]


def grid_of(n_rows: int, chunk_rows: int, row_values: int, row_nbytes: int, *, looped: bool) -> Grid:
    """The rule for the grid.

    Blocks take at most 16 MB, or one row. Items are chunks of the source, so that each is decoded once; where no
    number of blocks fits a chunk, items are shorter, and some chunks are decoded twice. Tiles have 65,536 values of a
    variable, or two million where draws are computed one by one.

    Parameters
    ----------
    n_rows : int
    chunk_rows : int
        Rows of a chunk of the source.
    row_values : int
        Values of one row of the widest variable, all draws together.
    row_nbytes : int
        Bytes of what is written for one row of it.
    looped : bool
        Whether draws are computed one by one.

    Examples
    --------
    >>> grid_of(1_000_000, 50_000, row_values=1000, row_nbytes=8000, looped=False)
    Grid(n_rows=1000000, item_rows=50000, block_rows=2000, tile_rows=65)
    """
    item_rows = max(1, min(chunk_rows, n_rows))
    most = max(1, min(item_rows, BLOCK_BYTES // max(1, row_nbytes)))
    n_blocks = -(-item_rows // most)
    exact = [n for n in range(n_blocks, min(2 * n_blocks, item_rows) + 1) if item_rows % n == 0]
    n_blocks = exact[0] if exact else n_blocks
    block_rows = item_rows // n_blocks if exact else most
    item_rows = n_blocks * block_rows if exact else max(1, item_rows // block_rows) * block_rows
    tile_values = LOOPED_VALUES if looped else TILE_VALUES
    tile_rows = max(1, min(block_rows, tile_values // max(1, row_values)))
    return Grid(n_rows, item_rows, block_rows, tile_rows)
