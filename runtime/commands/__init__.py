"""The commands that a base install can run, and the list of all commands."""

__all__: list[str] = []
