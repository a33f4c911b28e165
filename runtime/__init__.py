"""Run a bundle: all that a deploy box needs, without PyTorch."""
