"""Pooling by arithmetic: which coarser grid, and which cell of it a token falls in.

A grid is (rows, columns); its tokens lie row by row.
"""

from collections.abc import Iterable
from dataclasses import dataclass

Grid = tuple[int, int]

# A cell may be this many times as long as wide, in units of the first grid's tokens.
LONGEST = 2.0


@dataclass(frozen=True, slots=True)
class Pooling:
    """One boundary of a method that pools.

    Attributes:
        layer: The pruning layer.
        before: The grid that it sees.
        after: The grid that it makes; the same where it leaves the tokens alone.
    """

    layer: int
    before: Grid
    after: Grid

    @property
    def num_in(self) -> int:
        """Tokens before."""
        return self.before[0] * self.before[1]

    @property
    def num_out(self) -> int:
        """Tokens after."""
        return self.after[0] * self.after[1]


def block_grid(num_visual: int, image_grid: Grid | None) -> Grid:
    """Lay a visual block out as a grid.

    Images of one block lie below each other. Without a known grid, or where the block is not made
    of whole images, the tokens are one row.

    Args:
        num_visual: Tokens of the block.
        image_grid: Grid of one image, if known.
    """
    if image_grid is None or num_visual % (image_grid[0] * image_grid[1]):
        return (1, num_visual)
    return (num_visual // image_grid[1], image_grid[1])


def coarser_grid(grid: Grid, requested: int, first: Grid) -> Grid:
    """Choose the grid of about `requested` cells to pool a grid to.

    Cells longer than `LONGEST` times their width are taken only where nothing else fits; of the
    others the grid with the nearest number of cells wins, then the one with the squarest cells,
    then the one with fewer rows. A single row or column has no shape to keep.

    Args:
        grid: The grid now.
        requested: Cells wanted, 1 or more; the grid itself is returned for as many as it has.
        first: The grid before the first boundary: cells are measured in its tokens.
    """
    if requested >= grid[0] * grid[1]:
        return grid

    def cost(after: Grid) -> tuple[bool, int, float, int]:
        rows, columns = after
        height, width = first[0] / rows, first[1] / columns
        longer = 1.0 if 1 in first else max(height, width) / min(height, width)
        return (longer > LONGEST, abs(rows * columns - requested), longer, rows)

    return min(
        ((rows, columns) for rows in range(1, grid[0] + 1) for columns in range(1, grid[1] + 1)),
        key=cost,
    )


def poolings(kept: Iterable[tuple[int, int]], first: Grid) -> tuple[Pooling, ...]:
    """Follow a grid through the boundaries of a schedule.

    Args:
        kept: Pairs (layer, tokens wanted), ascending.
        first: The grid before the first boundary.
    """
    steps = []
    grid = first
    for layer, requested in kept:
        after = coarser_grid(grid, requested, first)
        steps.append(Pooling(layer, grid, after))
        grid = after
    return tuple(steps)


def cell_numbers(before: Grid, after: Grid) -> list[int]:
    """Number the cell of each token, row by row.

    Rows and columns are cut into runs that differ by one in length at most; each cell is the
    meeting of a run of rows with a run of columns.

    Returns:
        One number for each token of `before`; every cell of `after` occurs.
    """
    rows, columns = before
    return [
        (row * after[0] // rows) * after[1] + column * after[1] // columns
        for row in range(rows)
        for column in range(columns)
    ]
