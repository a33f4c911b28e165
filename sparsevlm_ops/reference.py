"""Pruned prefill and greedy decode in plain PyTorch: what every exported chain is compared to.

One prompt, one layer after the other, the sequence cut by slices: nothing is traced, so nothing
is arranged for a tracer. Runs Hugging Face decoders by duck typing, with eager attention.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from sparsevlm_ops.cells import Grid, block_grid
from sparsevlm_ops.eager_layer import LayerCache, run_layer
from sparsevlm_ops.heads import DEFAULT_NUM_HEADS
from sparsevlm_ops.host_scores import HOST_RULES
from sparsevlm_ops.methods import Judge, Method, Positions, get_method
from sparsevlm_ops.rank_rule import RankRule
from sparsevlm_ops.reference_scores import above_all, find_voters, looking_heads
from sparsevlm_ops.reference_step import ReferenceStage, reference_step
from sparsevlm_ops.schedule import BoundaryCounts, Schedule, boundary_counts


class CausalModel(Protocol):
    """A Hugging Face model: its decoder has `layers`, `norm` and `rotary_emb`."""

    def get_decoder(self) -> Any: ...  # noqa: D102
    def get_input_embeddings(self) -> nn.Module: ...  # noqa: D102
    def get_output_embeddings(self) -> nn.Module: ...  # noqa: D102


@dataclass(frozen=True, slots=True, eq=False)
class ReferenceResult:
    """A generation and every decision on the way.

    Attributes:
        tokens: Greedy tokens; the first one is the prefill's.
        prefill_logits: `[vocab]`, float32, at the last prompt position.
        step_logits: `[len(tokens) - 1, vocab]`, float32: row i is had by feeding token i.
        rater_scores: `[T]`, float32; empty without raters.
        rater_index: Who votes by attention, ascending, counted from the first text token after
            the image; -1 for the image's own last token.
        stages: One per boundary that pruned.
        decode_positions: `[len(tokens) - 1, layers]`: the position each layer rotated by.
        kv_lengths: Cache entries of each layer after the prefill.
    """

    tokens: list[int]
    prefill_logits: Tensor
    step_logits: Tensor
    rater_scores: Tensor
    rater_index: Tensor
    stages: list[ReferenceStage]
    decode_positions: Tensor
    kv_lengths: list[int]


@torch.no_grad()
def pruned_generate(
    model: CausalModel,
    inputs_embeds: Tensor,
    prefix_length: int,
    num_visual: int,
    schedule: Schedule | RankRule | None,
    method: str = "sparsevlm",
    max_new_tokens: int = 1,
    replay: Sequence[Tensor] | None = None,
    seed: int = 0,
    image_grid: Grid | None = None,
    num_heads: int | float = DEFAULT_NUM_HEADS,
    positions: Positions | None = None,
    stop_tokens: Collection[int] = (),
    position_ids: Tensor | None = None,
    words: Sequence[int] = (),
    deepstack: Tensor | None = None,
) -> ReferenceResult:
    """Generate greedily with the visual tokens pruned on the way through the layers.

    Args:
        model: With eager attention (`attn_implementation="eager"`).
        inputs_embeds: prefix | visual | text, `[1, S, N]`.
        prefix_length: P.
        num_visual: V; 0 for a text-only prompt, which nothing prunes.
        schedule: Tokens kept after each pruning layer, or the rule by which the rank of what the
            raters see there makes them; None only for a method that prunes none.
        method: One of `sparsevlm_ops.methods.METHODS`.
        max_new_tokens: Tokens to generate at most, 1 or more.
        replay: One tensor per boundary that prunes, in place of its own decision: scores `[V]`
            (floating), or the kept index `[K]` (integer; the dropped ones rank by own scores).
        seed: Of a method that draws its scores.
        image_grid: Rows and columns of one image's tokens, for a method that pools.
        num_heads: Heads that score, or their share, for a method that chooses among them.
        positions: "compact" or "original"; the method's own way by default.
        stop_tokens: Tokens that end the answer; they are part of it.
        position_ids: Where a token has three positions, `[1, S, 3]`; they are kept as they are.
        words: Tokens of the visual block that are words between images, counted in it: no step
            drops them, and they count for nothing.
        deepstack: What is added to the outputs of the first k layers, `[1, S, k*N]`, the layers'
            side by side: features of the vision tower at visual tokens, zeros elsewhere. Layer
            k - 1 may prune, after the addition; no layer before it.

    Raises:
        ValueError: A pruning method without a schedule, a schedule the model does not reach,
            pruning before all of `deepstack` is added, or attention that gives no probabilities.

    Source: SparseVLM (arXiv 2410.04417), section 3; the authors' code, v1.0, v1.5 and v2.0.
    """
    rules = get_method(method)
    if positions is not None:
        rules = replace(rules, positions=positions)
    if position_ids is not None:
        rules = replace(rules, positions="original")
    if words and rules.pools:
        raise ValueError(
            f"method {method} | got words between images | expected images side by side, as their "
            "tokens are averaged by place | use another method"
        )
    decoder = model.get_decoder()
    num_layers = len(decoder.layers)
    P, V, length = prefix_length, num_visual, inputs_embeds.shape[1]
    grid = block_grid(V, image_grid)
    fixed = torch.tensor(list(words), dtype=torch.int64, device=inputs_embeds.device)
    steps = _steps(schedule, rules, V - len(fixed), grid, num_layers)
    decisions = list(replay) if replay is not None else None
    given = _host_scores(rules.judge, steps, grid, seed)
    added = () if deepstack is None else torch.split(deepstack, inputs_embeds.shape[2], dim=2)
    if min(steps, default=num_layers) < len(added) - 1:
        raise ValueError(
            f"schedule | pruning after layer {min(steps)} | expected layer {len(added) - 1} or a "
            "later one, as features are added up to there | prune later"
        )

    # Who votes is settled once, from the raw embeddings; only text after the image does.
    voters, scores = find_voters(inputs_embeds, P, V, fixed, rules.judge)

    hidden = inputs_embeds
    numbers = torch.arange(length, device=hidden.device)[None]
    if position_ids is not None:
        numbers = position_ids
    following = int(numbers.max()) + 1
    cache = LayerCache()
    stages = []
    for index, layer in enumerate(decoder.layers):
        hidden, probabilities = run_layer(decoder, layer, hidden, numbers, cache)
        if index < len(added):
            hidden = hidden + added[index]
        if index not in steps or V - len(fixed) < 2:
            continue
        if index in given:
            own = given[index][None].to(hidden.device)
        else:
            # The voters' rows, the visual columns, averaged over heads and voters.
            rows = probabilities[0, :, P + V + voters, P : P + V].float()  # [H, R, V]
            if rules.scoring == "gravity":
                at_voters, at_visual = numbers[0, P + V + voters], numbers[0, P : P + V]
                rows = looking_heads(decoder, rows, at_voters, at_visual, num_heads)
            own = rows.mean(dim=(0, 1))[None]
        step = steps[index]
        if step is None:
            assert isinstance(schedule, RankRule)
            rank = int(torch.linalg.matrix_rank(rows.mean(dim=0)))
            step = schedule.counts(index, V - len(fixed), rank)
            if not step.prunes:
                continue
        decision = decisions.pop(0) if decisions else None
        own = above_all(own, fixed, V)
        stage = reference_step(rules, step, hidden[0], numbers[0], own, P, decision, len(fixed))
        fixed = torch.searchsorted(stage.kept, fixed)
        stages.append(stage)
        hidden, numbers, V = stage.hidden[None], stage.position_ids[None], stage.num_visual_out
    head = model.get_output_embeddings()
    prefill_logits = head(decoder.norm(hidden[:, -1]))[0].float()

    kv_lengths = [cache.length(index) for index in range(num_layers)]
    tokens = [int(prefill_logits.argmax())]
    step_logits: list[Tensor] = []
    decode_positions = []
    while len(tokens) < max_new_tokens and tokens[-1] not in stop_tokens:
        hidden = model.get_input_embeddings()(torch.tensor([[tokens[-1]]], device=hidden.device))
        # Survivors that were renumbered without gaps go on at a layer's own cache length.
        next_positions = [
            cache.length(index) if rules.positions == "compact" else following + len(step_logits)
            for index in range(num_layers)
        ]
        for layer, number in zip(decoder.layers, next_positions, strict=True):
            position = torch.full((1, 1, *numbers.shape[2:]), number, device=hidden.device)
            hidden, _ = run_layer(decoder, layer, hidden, position, cache)
        logits = head(decoder.norm(hidden[:, -1]))[0].float()
        step_logits.append(logits)
        decode_positions.append(next_positions)
        tokens.append(int(logits.argmax()))
    return ReferenceResult(
        tokens=tokens,
        prefill_logits=prefill_logits,
        step_logits=torch.stack([prefill_logits, *step_logits])[1:],
        rater_scores=scores,
        rater_index=voters,
        stages=stages,
        decode_positions=torch.tensor(decode_positions, dtype=torch.int64).reshape(-1, num_layers),
        kv_lengths=kv_lengths,
    )


def _steps(
    schedule: Schedule | RankRule | None,
    rules: Method,
    num_visual: int,
    grid: Grid,
    num_layers: int,
) -> Mapping[int, BoundaryCounts | None]:
    """Count the boundaries that prune, by layer; None where the rank will say how many stay."""
    if not rules.prunes:
        return {}
    if schedule is None:
        raise ValueError(
            "schedule | got None | expected the tokens kept after each pruning layer, as the "
            "method prunes | give a Schedule, or method 'none'"
        )
    if isinstance(schedule, RankRule):
        return dict.fromkeys(layer for layer in schedule.layers if layer < num_layers - 1)
    schedule.check_layers(num_layers)
    pools = grid if rules.pools else None
    counts = boundary_counts(schedule, num_visual, rules.recycles, pools)
    return {step.layer: step for step in counts if step.prunes}


def _host_scores(
    judge: Judge, steps: Mapping[int, BoundaryCounts | None], grid: Grid, seed: int
) -> dict[int, Tensor]:
    """Make the scores that need no model, by layer; empty for a method that asks the model."""
    rule = HOST_RULES.get(judge)
    if rule is None:
        return {}
    scores = rule([step for step in steps.values() if step is not None], grid, seed)
    return {layer: torch.from_numpy(rows) for layer, rows in zip(steps, scores, strict=True)}
