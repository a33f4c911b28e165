"""What pruning costs on a set of questions: asking, scoring, comparing, reporting."""

__all__: list[str] = []
