"""Fair comparison: the schedule by which a method leaves as many tokens as `sparsevlm`."""

from sparsevlm_ops.methods import Method
from sparsevlm_ops.schedule import Schedule, boundary_counts, visual_counts

BISECTIONS = 40  # more do not change a count


def equal_schedule(
    schedule: Schedule, method: Method, num_visual: int, num_layers: int
) -> Schedule | None:
    """Make the schedule by which a method leaves as many tokens as `sparsevlm` does by another.

    A method that recycles takes the schedule as it is. Others keep what `sparsevlm` keeps and
    merges together, boundary by boundary, and leave out boundaries where it loses no token. A
    method that prunes once keeps after the first boundary the rounded mean of what `sparsevlm`'s
    layers see from there on (a pruning layer counted with its output): the average over all layers
    is then the same. A pyramid keeps the same share at each boundary, the one that makes that
    average.

    Args:
        schedule: Tokens that `sparsevlm` keeps after each pruning layer.
        method: The method to make it for.
        num_visual: Visual tokens of the prompt.
        num_layers: Decoder layers of the model.

    Returns:
        The schedule, or None where nothing is to be pruned.

    Raises:
        ValueError: A pruning layer has no layer after it.
    """
    if method.recycles:
        return schedule
    if method.counts == "pyramid":
        equal = _pyramid(schedule, num_visual, num_layers)
    elif method.counts == "once":
        first = schedule.layers[0]
        rest = visual_counts(schedule, num_visual, num_layers)[first:]
        equal = {first: max(1, round(sum(rest) / len(rest)))}
    else:
        steps = boundary_counts(schedule, num_visual)
        equal = {step.layer: step.num_out for step in steps if step.num_out < step.num_in}
    equal = {layer: count for layer, count in equal.items() if count < num_visual}
    if not equal:
        return None
    return Schedule.of(
        equal, f"as many tokens as sparsevlm by {schedule.spell()}; {schedule.source}"
    )


def _pyramid(schedule: Schedule, num_visual: int, num_layers: int) -> dict[int, int]:
    """Keep one share at each boundary, so that the layers see as many tokens in all."""
    wanted = sum(visual_counts(schedule, num_visual, num_layers))

    def kept(share: float) -> dict[int, int]:
        counts = {}
        for number, layer in enumerate(schedule.layers, start=1):
            counts[layer] = max(1, round(num_visual * share**number))
        return counts

    def total(share: float) -> int:
        equal = Schedule.of(kept(share))
        return sum(visual_counts(equal, num_visual, num_layers, recycles=False))

    low, high = 0.0, 1.0  # the total grows with the share
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if total(middle) <= wanted else (low, middle)
    return kept(min((low, high), key=lambda share: abs(total(share) - wanted)))
