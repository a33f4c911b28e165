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
from sparsevlm_ops.gravity import gravity_weights
from sparsevlm_ops.heads import DEFAULT_NUM_HEADS, count_heads
from sparsevlm_ops.host_scores import HOST_RULES
from sparsevlm_ops.methods import Judge, Method, Positions, get_method
from sparsevlm_ops.rank_rule import RankRule
from sparsevlm_ops.raters import rater_mask, rater_scores
from sparsevlm_ops.recycling import clusters, merge_clusters
from sparsevlm_ops.schedule import BoundaryCounts, Schedule, boundary_counts
from sparsevlm_ops.selection import select

# Above any score: attention is a probability, and no correction of it comes near.
WORD_SCORE = 1e6


class CausalModel(Protocol):
    """A Hugging Face model: its decoder has `layers`, `norm` and `rotary_emb`."""

    def get_decoder(self) -> Any: ...  # noqa: D102
    def get_input_embeddings(self) -> nn.Module: ...  # noqa: D102
    def get_output_embeddings(self) -> nn.Module: ...  # noqa: D102


@dataclass(frozen=True, slots=True, eq=False)
class ReferenceStage:
    """What happened at one boundary.

    Attributes:
        layer: The pruning layer.
        scores: Visual scores, `[V]`, float32; a replay's own where it gives scores.
        kept: `[K]`, ascending, relative to this stage's visual block.
        merge_candidates: `[M]`, descending by score; all tokens, in order, where all are pooled.
        merged: Merged tokens, `[C, N]`.
        hidden: Input of the next layer, `[S', N]`.
        position_ids: From the next layer on, `[S']`.
        num_visual_in: V before.
        num_visual_out: K + C.
    """

    layer: int
    scores: Tensor
    kept: Tensor
    merge_candidates: Tensor
    merged: Tensor
    hidden: Tensor
    position_ids: Tensor
    num_visual_in: int
    num_visual_out: int


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
    voters, scores = _voters(inputs_embeds, P, V, fixed, rules.judge)

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
                rows = _looking_heads(decoder, rows, at_voters, at_visual, num_heads)
            own = rows.mean(dim=(0, 1))[None]
        step = steps[index]
        if step is None:
            assert isinstance(schedule, RankRule)
            rank = int(torch.linalg.matrix_rank(rows.mean(dim=0)))
            step = schedule.counts(index, V - len(fixed), rank)
            if not step.prunes:
                continue
        decision = decisions.pop(0) if decisions else None
        own = _above_all(own, fixed, V)
        stage = _prune(rules, step, hidden[0], numbers[0], own, P, decision, len(fixed))
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


def _looking_heads(
    decoder: Any, rows: Tensor, at_voters: Tensor, at_visual: Tensor, num_heads: int | float
) -> Tensor:
    """Divide attention `[H, R, V]` by what rotation favours, and take the heads that look most."""
    inv_freq = decoder.rotary_emb.inv_freq.double()
    head_dim = decoder.layers[0].self_attn.head_dim
    table = gravity_weights(inv_freq, head_dim, decoder.config.max_position_embeddings)
    distance = (at_voters[:, None] - at_visual[None, :]).abs().clamp(max=len(table) - 1)
    # Written out per pair, where the graph looks it up: the sum over a unit vector's rotations.
    turned = torch.cos(distance[..., None].double() * inv_freq).sum(dim=-1)
    favour = (2 * turned + head_dim - 2 * len(inv_freq)) / head_dim**0.5
    corrected = rows.double() / favour
    looking = corrected.sum(dim=(1, 2)).argsort(descending=True, stable=True)
    chosen: Tensor = corrected[looking[: count_heads(num_heads, len(rows))]]
    return chosen.float()


def _voters(
    inputs_embeds: Tensor, prefix_length: int, num_visual: int, words: Tensor, judge: Judge
) -> tuple[Tensor, Tensor]:
    """Find the rows that vote by attention, and the scores that chose them."""
    after, length = prefix_length + num_visual, inputs_embeds.shape[1]
    nothing = inputs_embeds.new_zeros(0)
    if judge not in ("raters", "last_token") or not num_visual:
        return nothing.to(torch.int64), nothing
    if judge == "last_token" or after == length:
        # A prompt that ends with its image is rated by its last token too: the row that the answer
        # is made from.
        return torch.tensor([length - after - 1], device=inputs_embeds.device), nothing
    is_visual = torch.ones(num_visual, dtype=torch.bool, device=words.device)
    is_visual[words] = False
    visual = inputs_embeds[:, prefix_length:after][:, is_visual]
    scores = rater_scores(visual, inputs_embeds[:, after:])
    return rater_mask(scores)[0].nonzero()[:, 0], scores[0]


def _above_all(scores: Tensor, words: Tensor, num_visual: int) -> Tensor:
    """Lift words above visual tokens, `[1, V]`; scores may be those of visual tokens alone."""
    if not len(words):
        return scores
    lifted = scores.new_full((1, num_visual), WORD_SCORE)
    is_visual = torch.ones(num_visual, dtype=torch.bool, device=words.device)
    is_visual[words] = False
    lifted[:, is_visual] = scores if scores.shape[1] < num_visual else scores[:, is_visual]
    return lifted


def _prune(
    rules: Method,
    counts: BoundaryCounts,
    hidden: Tensor,
    positions: Tensor,
    scores: Tensor,
    prefix_length: int,
    replay: Tensor | None,
    num_words: int,
) -> ReferenceStage:
    """Keep, merge and rejoin: hidden `[S, N]`, positions `[S]`, scores `[1, V]`."""
    P, V, K = prefix_length, counts.num_in + num_words, counts.num_kept + num_words
    ranked = scores
    if replay is not None and replay.is_floating_point():
        ranked = scores = replay.reshape(1, V).to(scores)
    elif replay is not None:
        if replay.numel() != K:
            raise ValueError(
                f"replay | got {replay.numel()} kept tokens at layer {counts.layer} | expected "
                f"{K} | replay them with the schedule they were made with"
            )
        ranked = scores.index_fill(1, replay.reshape(-1).to(scores.device), torch.inf)
    prefix, visual, suffix = hidden[:P], hidden[P : P + V], hidden[P + V :]
    if rules.pools:
        kept = torch.arange(0, device=hidden.device)
        candidates = torch.arange(V, device=hidden.device)
        cells = [visual[scores[0] == cell] for cell in range(counts.num_merged)]
        merged = torch.stack([cell.float().mean(dim=0) for cell in cells]).to(hidden.dtype)
    else:
        kept, candidates = (rows[0] for rows in select(ranked, K, counts.num_candidates))
        merged = visual[:0]
    if rules.recycles:
        merged = merge_clusters(visual[candidates][None], counts.num_merged)[0]
    following = torch.cat([prefix, visual[kept], merged, suffix])
    next_positions = positions[: len(following)]
    if rules.positions == "original":
        block = positions[P : P + V]
        numbers = _merged_positions(rules, counts, block, visual, candidates, scores[0])
        next_positions = torch.cat([positions[:P], block[kept], numbers, positions[P + V :]])
    return ReferenceStage(
        layer=counts.layer,
        scores=scores[0],
        kept=kept,
        merge_candidates=candidates,
        merged=merged,
        hidden=following,
        position_ids=next_positions,
        num_visual_in=V,
        num_visual_out=K + len(merged),
    )


def _merged_positions(
    rules: Method,
    counts: BoundaryCounts,
    positions: Tensor,
    visual: Tensor,
    candidates: Tensor,
    scores: Tensor,
) -> Tensor:
    """Find where merged tokens stand: at their cluster's centre, or amid their cell."""
    if rules.pools:
        cells = [positions[scores == cell] for cell in range(counts.num_merged)]
        return torch.stack([cell.sum() // len(cell) for cell in cells])
    if not rules.recycles:
        return positions[:0]
    centres = clusters(visual[candidates][None], counts.num_merged)[0]
    return positions[candidates[centres[0]]]
