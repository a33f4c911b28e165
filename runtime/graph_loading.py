"""Load the graphs of a bundle side by side: engines read, rewrite and pack a graph on one core."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from sparsevlm_trt.runtime.threads import allowed_cpus

__all__ = ["load_graphs"]

# What an engine holds beside the weights while it packs them is held as many times.
_MOST_AT_ONCE = 4


def load_graphs(graphs: Sequence[str], load: Callable[[str], None]) -> None:
    """Load each graph.

    Args:
        graphs: Their names.
        load: Loads one. What it raises for the first of those that fail is raised here, when the
            ones that had begun are done; the others are not begun.
    """
    with ThreadPoolExecutor(min(_MOST_AT_ONCE, allowed_cpus())) as pool:
        begun = [pool.submit(load, graph) for graph in graphs]
        try:
            for each in begun:
                each.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
