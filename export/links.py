"""Which output of a bundle's graphs feeds which input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

from sparsevlm_trt.runtime.graph_spec import GraphSpec, Link, StageSpec

__all__ = ["chain_links"]


def chain_links(graphs: Mapping[str, GraphSpec], stages: Sequence[StageSpec]) -> tuple[Link, ...]:
    """List the links of a chain.

    What the raters see is computed from the queries and keys of any stage but the last. A judge
    graph reads it too, and may stand between it and the prune graph.
    At each boundary the hidden states go either through a prune graph or straight on, as the
    request says; both ways are links. What the host takes apart on the way (image features into
    the prompt, the last row into the head) is not a link.

    Args:
        graphs: All graphs of the bundle, by name.
        stages: The stages in order.
    """
    first = stages[0].graph
    links = [Link("embed.inputs_embeds", f"{first}.hidden_states")]
    prunes = sorted(name for name in graphs if name.startswith("prune_"))
    judges = [name for name in ("gravity", "rank") if name in graphs]
    readers = [f"{graph}.rater_attention" for graph in (*judges, *prunes)]
    if "rater_rows" in graphs:
        links += [Link("rater_rows.rater_attention", reader) for reader in readers]
    if "gravity" in judges:
        corrected = "gravity.corrected_attention"
        links += [Link(corrected, f"{prune}.rater_attention") for prune in prunes]
    for stage, following in pairwise(stages):
        links.append(Link(f"{stage.graph}.last_hidden_state", f"{following.graph}.hidden_states"))
        if "rater_rows" in graphs:
            shown = ("queries", "keys")
            links += [Link(f"{stage.graph}.{name}", f"rater_rows.{name}") for name in shown]
        for prune in prunes:
            links += [
                Link(f"{stage.graph}.last_hidden_state", f"{prune}.hidden_states"),
                Link(f"{prune}.next_hidden_states", f"{following.graph}.hidden_states"),
                Link(f"{prune}.next_position_ids", f"{following.graph}.position_ids"),
            ]
    return tuple(links)
