"""What a budget means on any model: the authors' tables where they hold, else one rule.

A budget is the average number of visual tokens that a layer sees, a pruning layer counted with its
output: a whole number of tokens, or a fraction of the prompt's visual tokens.

- On 576 tokens and 32 layers, 192, 128, 96 and 64 (and our 32) are the tables.
- Everything else: the pruning layers are the authors' 2, 6 and 15 moved to the same depth, and the
  tables' own proportions between them, scaled to make the average (`budget_profile`). A model that
  is cut at another number of layers keeps one share of the tokens after each.
- Layers before the first boundary see every token. Where these alone would take more than two
  thirds of the budget, the first boundary moves forward.
"""

from collections.abc import Collection
from functools import lru_cache
from itertools import product

from sparsevlm_ops.budget_profile import authors_profile
from sparsevlm_ops.matching import equal_schedule
from sparsevlm_ops.methods import Method, get_method
from sparsevlm_ops.placement import AUTHORS_LAYERS, AUTHORS_NUM_LAYERS, placed_layers
from sparsevlm_ops.schedule import (
    AUTHORS_SCHEDULES,
    BUDGET_VISUAL_TOKENS,
    BUDGETS,
    Schedule,
    average_visual_tokens,
    budget_source,
)

Budget = int | float

# Source: the authors' code, v2.0, `RETAIN_TOKN`: tokens that `sparsevlm+` keeps.
AUTHORS_PLUS_SCHEDULES: dict[int, dict[int, int]] = {
    192: {2: 300, 6: 200, 15: 118},
    128: {2: 238, 6: 108, 15: 60},
    96: {2: 246, 6: 54, 15: 28},
    64: {2: 66, 6: 34, 15: 20},
}
# Numerator and denominator of the budget's share that unpruned layers may take.
_MOST_BEFORE = (2, 3)
_BISECTIONS = 40
_MOST = 1_000_000  # more is a slip
_NUDGE = 3  # tokens that a count may move for the sake of the average


def budget_tokens(budget: Budget, num_visual: int) -> float:
    """Read a budget as an average number of tokens.

    Args:
        budget: Tokens, 1 to a million; or a fraction of the visual tokens, between 0 and 1.
        num_visual: Visual tokens of the prompt.

    Raises:
        ValueError: It is neither.
    """
    if isinstance(budget, int) and not isinstance(budget, bool) and 1 <= budget <= _MOST:
        return float(budget)
    if isinstance(budget, float) and 0.0 < budget < 1.0:
        return budget * num_visual
    raise ValueError(
        f"budget | got {budget!r} | expected a whole number of tokens, or a fraction of them such "
        "as 0.33 | name one of them, or spell a schedule like 2:300,6:200,15:110"
    )


def budget_layers(budget: Budget, num_visual: int, num_layers: int) -> tuple[int, ...]:
    """Place the pruning layers of a budget in a model that may be cut anywhere.

    Raises:
        ValueError: No budget, or a model of fewer than 2 layers.
    """
    layers = list(placed_layers(AUTHORS_LAYERS, num_layers))
    if not layers:
        raise ValueError(
            f"budget {budget} | got a model of {num_layers} layers | expected 2 or more: pruning "
            "acts between two layers | use method 'none'"
        )
    tokens = budget_tokens(budget, num_visual) * num_layers * _MOST_BEFORE[0] / _MOST_BEFORE[1]
    layers[0] = min(layers[0], int(tokens / max(1, num_visual)))
    return tuple(sorted(set(layers)))


@lru_cache(maxsize=1024, typed=True)  # 1 is a budget, True and 1.0 are none
def budget_schedule(
    budget: Budget,
    method: str,
    num_visual: int,
    num_layers: int,
    cuts: tuple[int, ...] | None = None,
) -> Schedule | None:
    """Make the schedule of a budget.

    Args:
        budget: See `budget_tokens`.
        method: A method whose counts follow from a budget.
        num_visual: Visual tokens of the prompt.
        num_layers: Decoder layers of the model.
        cuts: Layers after which it can prune; None for anywhere.

    Returns:
        The schedule; None where the budget is at or above the tokens that there are.

    Raises:
        ValueError: No budget, or one below what the cuts allow.
    """
    rules = get_method(method)
    if budget_tokens(budget, num_visual) >= num_visual:
        return None
    own = AUTHORS_PLUS_SCHEDULES if rules.scoring == "gravity" else BUDGETS
    is_table = (num_visual, num_layers) == (BUDGET_VISUAL_TOKENS, AUTHORS_NUM_LAYERS)
    if is_table and budget in own and (cuts is None or set(own[int(budget)]) <= set(cuts)):
        source = budget_source(int(budget)) if own is BUDGETS else _plus_source(int(budget))
        table = Schedule.of(own[int(budget)], source)
        return table if own is not BUDGETS else _for_method(table, rules, num_visual, num_layers)
    layers = _layers(budget, num_visual, num_layers, cuts)
    recycles = rules.scoring != "gravity"  # the others are matched to `sparsevlm`, which recycles
    solved = _solve(budget, layers, num_visual, num_layers, recycles)
    return solved if not recycles else _for_method(solved, rules, num_visual, num_layers)


def _for_method(
    schedule: Schedule, method: Method, num_visual: int, num_layers: int
) -> Schedule | None:
    return equal_schedule(schedule, method, num_visual, num_layers)


def _plus_source(budget: int) -> str:
    return f"SparseVLM v2.0, table for {budget} tokens"


def _layers(
    budget: Budget, num_visual: int, num_layers: int, cuts: Collection[int] | None
) -> tuple[int, ...]:
    """Choose among the cuts: those of the rule, else the authors' own, else all there are."""
    by_rule = budget_layers(budget, num_visual, num_layers)
    if cuts is None:
        return by_rule
    by_depth = placed_layers(AUTHORS_LAYERS, num_layers)
    for layers in (by_rule, by_depth, AUTHORS_LAYERS):
        if set(layers) <= set(cuts):
            return layers
    if not cuts:
        raise ValueError(
            f"budget {budget} | got a model that is cut nowhere | expected a boundary | export "
            f"with --boundaries {','.join(map(str, by_rule))}"
        )
    return tuple(sorted(cuts))


def _solve(
    budget: Budget,
    layers: tuple[int, ...],
    num_visual: int,
    num_layers: int,
    recycles: bool,
) -> Schedule:
    """Scale the proportions of the tables to make the average; then nudge single counts."""
    wanted = budget_tokens(budget, num_visual)

    def average(counts: tuple[int, ...]) -> float:
        schedule = Schedule.of(dict(zip(layers, counts, strict=True)))
        return average_visual_tokens(schedule, num_visual, num_layers, recycles)

    tables = AUTHORS_SCHEDULES if recycles else AUTHORS_PLUS_SCHEDULES
    profile = authors_profile(wanted / num_visual, tables)

    def counts_of(level: float) -> tuple[int, ...]:
        if len(layers) == len(profile):
            shares = [level * share / min(profile) for share in profile]
        else:
            shares = [level**power for power in range(1, len(layers) + 1)]
        return tuple(min(num_visual - 1, max(1, round(num_visual * each))) for each in shares)

    least = average((1,) * len(layers))
    if least > wanted * 1.02:
        asked = budget_layers(budget, num_visual, num_layers)
        raise ValueError(
            f"budget {budget} | got {num_visual} visual tokens and pruning layers "
            f"{', '.join(map(str, layers))}, which leave {least:.0f} on average at least | "
            f"expected a budget above that | ask for more, or export with --budget {budget}: it "
            f"cuts after {', '.join(map(str, asked))}"
        )
    low, high = 0.0, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if average(counts_of(middle)) <= wanted else (low, middle)
    start = counts_of(low)
    tail = start[-2:]
    nearby = [range(max(1, count - _NUDGE), count + _NUDGE + 1) for count in tail]
    tried = (start[: -len(tail)] + counts for counts in product(*nearby))
    counts = min(tried, key=lambda each: (abs(average(each) - wanted), each))
    return Schedule.of(
        dict(zip(layers, counts, strict=True)),
        f"rule for {wanted:.0f} of {num_visual} tokens, {num_layers} layers: the proportions of "
        "the authors' tables",
    )
