"""How many heads score, by number or by share."""

# Source: the authors' v2.0 takes 14 of LLaVA-1.5-7B's 32 heads.
DEFAULT_NUM_HEADS = 14


def count_heads(asked: int | float, num_heads: int) -> int:
    """Read how many of a model's heads shall score.

    Args:
        asked: A number of heads, of which there may be fewer; or a share of them, a fraction
            below 1.
        num_heads: Heads of the model.

    Returns:
        1 to `num_heads`.

    Raises:
        ValueError: Neither a whole number of 1 or more nor a fraction between 0 and 1.
    """
    if isinstance(asked, int) and not isinstance(asked, bool) and asked >= 1:
        return min(asked, num_heads)
    if isinstance(asked, float) and 0.0 < asked < 1.0:
        return max(1, round(asked * num_heads))
    raise ValueError(
        f"num_heads | got {asked!r} | expected a number of heads, 1 or more, or a share of them "
        "such as 0.44 | the authors' is 14 of 32"
    )
