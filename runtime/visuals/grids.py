"""What a tower of patches must be told of each patch: its window, its share of the positions.

Dims: P patches of one frame.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["position_table", "token_positions", "window_numbers"]

Index = NDArray[np.int64]


def window_numbers(places: Index, time: int, side: int) -> Index:
    """Number the window that each patch looks at.

    Args:
        places: Row and column of each patch of a frame, `[P, 2]`.
        time: Frames.
        side: Patches along a window.

    Returns:
        `[time * P]`: patches with the same number see each other.
    """
    window = places // side
    numbers = window[:, 0] * (window[:, 1].max() + 1) + window[:, 1]
    frames = np.arange(time)[:, None] * (numbers.max() + 1)
    flat: Index = (frames + numbers).reshape(-1)
    return flat


def position_table(
    places: Index, grid: tuple[int, int], side: int
) -> tuple[Index, NDArray[np.float32]]:
    """Find where each patch lies on a learned square grid of positions.

    Args:
        places: Row and column of each patch, `[P, 2]`.
        grid: Rows and columns of the frame.
        side: Rows, and columns, of the learned grid.

    Returns:
        The four entries around it, `[P, 4]`, and their shares, float32: bilinear, corners aligned.
    """
    spread = np.array([(side - 1) / max(count - 1, 1) for count in grid], np.float32)
    exact = places.astype(np.float32) * spread
    before = exact.astype(np.int64)
    after = np.minimum(before + 1, side - 1)
    share = exact - before.astype(np.float32)
    rows = np.stack([before[:, 0], before[:, 0], after[:, 0], after[:, 0]], axis=1)
    columns = np.stack([before[:, 1], after[:, 1]] * 2, axis=1)
    down = np.stack([1 - share[:, 0]] * 2 + [share[:, 0]] * 2, axis=1)
    across = np.stack([1 - share[:, 1], share[:, 1]] * 2, axis=1)
    return rows * side + columns, down * across


def token_positions(
    length: int, blocks: list[tuple[int, tuple[int, int, int], float]]
) -> tuple[Index, int]:
    """Give each token of a prompt its three positions.

    Text goes on by one in all three. The tokens of a frame share the time and differ in row and
    column; text after it goes on behind the longer side.

    Args:
        length: S, tokens of the prompt.
        blocks: Of each run of visual tokens: its first token, its time steps, rows and columns,
            and how far apart time steps are.

    Returns:
        `[S, 3]`, and the position of the token that comes next.

    Source: Qwen2-VL 2.1 (M-RoPE).
    """
    positions = np.zeros((length, 3), np.int64)
    token = number = 0
    for start, (time, rows, columns), interval in [*blocks, (length, (0, 0, 0), 1.0)]:
        text = np.arange(start - token) + number
        positions[token:start] = text[:, None]
        number += start - token
        cells = np.moveaxis(np.indices((time, rows, columns)), 0, -1).reshape(-1, 3)
        stretched = cells * np.array([interval, 1.0, 1.0])
        positions[start : start + len(cells)] = stretched.astype(np.int64) + number
        number += max(rows, columns)
        token = start + len(cells)
    # Time steps may lead further than rows and columns do.
    return positions, int(positions.max(initial=-1)) + 1
