"""Where a model is pruned: the authors' layers, moved to the same depth of another model."""

from collections.abc import Iterable

# Source: the authors' code prunes after these layers of 32 (2, 6, 15; by rank also 19).
AUTHORS_LAYERS = (2, 6, 15)
AUTHORS_RANK_LAYERS = (2, 6, 15, 19)
AUTHORS_NUM_LAYERS = 32


def placed_layers(layers: Iterable[int], num_layers: int) -> tuple[int, ...]:
    """Move pruning layers of a 32-layer model to the same depth of a model.

    A pruning layer ends a stage, so its depth is that of its end: layer l becomes
    round((l + 1) * L / 32) - 1. A layer must be left after the last one.

    Args:
        layers: Of a 32-layer model, ascending.
        num_layers: L, decoder layers of the model.

    Returns:
        Ascending layers, 0 to L - 2; fewer where two fall together, none for L below 2.
    """
    ends = (
        ((layer + 1) * num_layers * 2 + AUTHORS_NUM_LAYERS) // (2 * AUTHORS_NUM_LAYERS)
        for layer in layers
    )
    return tuple(sorted({min(max(end - 1, 0), num_layers - 2) for end in ends if num_layers > 1}))
