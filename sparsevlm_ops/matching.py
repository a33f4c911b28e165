"""Fair comparison: the schedule by which a method leaves as many tokens as `sparsevlm`."""

from sparsevlm_ops.methods import Method
from sparsevlm_ops.schedule import Schedule, boundary_counts, visual_counts


def equal_schedule(
    schedule: Schedule, method: Method, num_visual: int, num_layers: int
) -> Schedule | None:
    """Make the schedule by which a method leaves as many tokens as `sparsevlm` does by another.

    A method that recycles takes the schedule as it is. Others keep what `sparsevlm` keeps and
    merges together, boundary by boundary, and leave out boundaries where it loses no token. A
    method that prunes once keeps after the first boundary the rounded mean of what `sparsevlm`'s
    layers see from there on (a pruning layer counted with its output): the average over all layers
    is then the same.

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
    if method.once:
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
