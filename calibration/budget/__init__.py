"""`calibrate budget`: pruning layers and tokens kept, chosen from the user's own questions."""

__all__: list[str] = []
