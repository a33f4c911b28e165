"""The reference led along the chain's own path: its decisions are taken, all else is computed.

Where the chain and the reference take different tokens on, even by a tie, later boundaries and
logits cannot be compared any more. Here they can: the same raters vote, the same tokens are kept
and the same ones are merged, so that every later token stands for the same patches.

Dims: S tokens, N hidden size, V visual tokens, K kept, M merge candidates, C merged tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sparsevlm_ops.pooling import cell_means
from sparsevlm_ops.recycling import cluster_means, clusters
from sparsevlm_ops.schedule import num_merged
from sparsevlm_ops.scoring import visual_scores
from sparsevlm_trt.export.parity.reference_model import PromptInputs, ReferenceModel
from sparsevlm_trt.export.parity.torch_graphs import TorchGraphs
from sparsevlm_trt.runtime.boundary import WORD_SCORE, Layout
from sparsevlm_trt.runtime.manifest import Manifest
from sparsevlm_trt.runtime.recording import GraphCall
from sparsevlm_trt.runtime.trace import StageTrace

__all__ = ["Followed", "FollowedBoundary", "follow"]


@dataclass(frozen=True, slots=True, eq=False)
class FollowedBoundary:
    """One boundary on the chain's path.

    Attributes:
        scores: The reference's visual scores there, `[V]` float32.
        num_regrouped: Of the chain's merge candidates, those that the reference would have put
            into another merged token. Clusters follow from the hidden states of a stage, so
            rounding can regroup them; that the prune graph groups rightly what it is given is the
            first question's matter.
    """

    scores: NDArray[np.float32]
    num_regrouped: int


@dataclass(frozen=True, slots=True, eq=False)
class Followed:
    """A prefill of the reference with the chain's decisions.

    Attributes:
        boundaries: Those that pruned.
        prefill_logits: `[vocab]` float32.
    """

    boundaries: tuple[FollowedBoundary, ...]
    prefill_logits: NDArray[np.float32]


@torch.no_grad()
def follow(
    reference: ReferenceModel,
    manifest: Manifest,
    prompt: PromptInputs,
    layout: Layout,
    path: Sequence[StageTrace],
    calls: Sequence[GraphCall],
) -> Followed:
    """Read a prompt along the chain's path.

    Args:
        reference: The checkpoint's model.
        manifest: Describes the stages.
        prompt: The prompt as the reference reads it, float32.
        layout: Where its visual block lies.
        path: What the chain did at each boundary that pruned.
        calls: The graph calls of the chain's prefill; who rated, what was merged and at which
            positions the chain went on is read.
    """
    graphs = TorchGraphs(reference, manifest)
    width = manifest.model.num_kv_heads * manifest.model.head_dim
    raters = _raters(calls, layout)
    steps = {step.layer: step for step in path}
    prunes = iter([call for call in calls if call.graph.startswith("prune_")])
    corrections = iter([call for call in calls if call.graph == "gravity"])
    positions = {
        call.graph: call.inputs["position_ids"]
        for call in calls
        if call.phase == "prefill" and call.graph.startswith("stage_")
    }
    hidden, start, count = prompt.embeds, layout.prefix, layout.num_visual
    words = np.array(layout.words, np.int64)
    boundaries = []
    for stage in manifest.stages:
        step = steps.get(stage.stop - 1)
        given = {
            "hidden_states": hidden,
            "position_ids": torch.from_numpy(positions[stage.graph]),
            "past_lengths": torch.zeros(1, dtype=torch.int64),
        }
        if stage.first == 0 and prompt.deepstack is not None:
            given["deepstack_features"] = prompt.deepstack
        for layer in range(stage.first, stage.stop):
            for part in ("key", "value"):
                given[f"past_key_values.{layer}.{part}"] = torch.zeros(1, 0, width)
        made = graphs.stage(stage, given)
        hidden = made["last_hidden_state"]
        if step is None:
            continue
        asked = {
            "queries": made["queries"],
            "keys": made["keys"],
            "rater_index": (raters + start + count)[None],
            "visual_index": torch.arange(start, start + count)[None],
        }
        scores = _scores(graphs, graphs.rater_attention(asked), step, corrections)
        scores[torch.from_numpy(words)] = WORD_SCORE
        words = np.searchsorted(step.kept, words)
        call = next(prunes)
        rows = call.inputs["hidden_states"][0].astype(np.float32) / manifest.model.residual_scale
        hidden, num_regrouped = _prune_alike(hidden, start, count, step, torch.from_numpy(rows))
        boundaries.append(FollowedBoundary(scores.numpy(), num_regrouped))
        count = step.num_visual_out
    logits = reference.logits(hidden[:, -1])[0]
    return Followed(tuple(boundaries), logits.numpy())


def _raters(calls: Sequence[GraphCall], layout: Layout) -> Tensor:
    """The chain's raters, counted from the first token after the image."""
    rows = (call.inputs["rater_index"][0] for call in calls if call.graph == "rater_rows")
    asked = next(rows, np.zeros(0, np.int64))
    return torch.from_numpy(asked - layout.prefix - layout.num_visual)


def _scores(
    graphs: TorchGraphs, attention: Tensor, step: StageTrace, corrections: Iterator[GraphCall]
) -> Tensor:
    """The reference's scores of its own attention, `[V]`; the host's where it asked no token."""
    if not attention.shape[2]:
        return torch.from_numpy(np.array(step.scores))
    call = next(corrections, None)
    if call is None:
        return visual_scores(attention, torch.ones(1, attention.shape[2]))[0]
    given = {**call.inputs, "rater_attention": attention.numpy()}
    return torch.from_numpy(graphs.run("gravity", given, {})["corrected_attention"][0, 0, 0])


def _prune_alike(
    hidden: Tensor, start: int, count: int, step: StageTrace, chain_rows: Tensor
) -> tuple[Tensor, int]:
    """Lay the next sequence from the reference's rows, kept and grouped as the chain did."""
    candidates = torch.from_numpy(np.array(step.merge_candidates))
    visual = hidden[0, start : start + count]
    kept = visual[torch.from_numpy(np.array(step.kept))]
    merged, num_regrouped = visual[:0], 0
    if len(candidates) == count:  # all in cells, whose numbers are the scores
        cells = torch.from_numpy(np.array(step.scores))
        merged = cell_means(visual[None], cells[None], step.num_merged)[0]
    elif step.num_merged:
        groups = _groups(chain_rows[start : start + count][candidates])
        own_groups = _groups(visual[candidates])
        member = (groups == torch.arange(step.num_merged)[:, None]).float()  # [C, M]
        merged = cluster_means(visual[candidates][None], member[None])[0]
        num_regrouped = int((groups != own_groups).sum())
    following = torch.cat([hidden[0, :start], kept, merged, hidden[0, start + count :]])
    return following[None], num_regrouped


def _groups(tokens: Tensor) -> Tensor:
    """Which merged token each candidate `[M, N]` goes into, as `merge_clusters` decides."""
    _, member = clusters(tokens[None], num_merged(len(tokens)))
    return member[0].argmax(dim=0)
