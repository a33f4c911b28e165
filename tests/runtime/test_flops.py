"""Costs agree with the published ones, with counting by hand, and with each other."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsevlm_ops.schedule import Schedule
from sparsevlm_trt.runtime.errors import PlanError
from sparsevlm_trt.runtime.flops import chain_cost, layer_multiply_adds, paper_multiply_adds
from sparsevlm_trt.runtime.graph_spec import StageSpec
from sparsevlm_trt.runtime.model_spec import ModelSpec, VisionSpec

LLAVA_7B = ModelSpec(
    source="llava-hf/llava-1.5-7b-hf",
    model_type="llava",
    text_model_type="llama",
    weights_sha256="",
    dtype="float16",
    num_layers=32,
    hidden_size=4096,
    intermediate_size=11008,
    num_heads=32,
    num_kv_heads=32,
    head_dim=128,
    vocab_size=32064,
    max_position=4096,
    tied_head=False,
)
CLIP = VisionSpec(
    num_visual=576,
    grid=(24, 24),
    image_size=(336, 336),
    image_token_id=32000,
    hidden_size=1024,
    intermediate_size=4096,
    num_layers=23,
    num_positions=577,
)
STAGES = tuple(
    StageSpec(f"stage_{index}", first, stop)
    for index, (first, stop) in enumerate([(0, 3), (3, 7), (7, 16), (16, 32)])
)
PROMPT = {"num_visual": 576, "num_text": 118}  # the text that the published 4.62 T implies


def at(budget: int, **change: object):
    schedule = Schedule.from_budget(budget, 32)
    return chain_cost(LLAVA_7B, CLIP, STAGES, schedule, **{**PROMPT, **change})


def test_the_unpruned_model_costs_what_is_published() -> None:
    cost = chain_cost(LLAVA_7B, CLIP, STAGES, None, **PROMPT)
    assert cost.unpruned_paper_multiply_adds / 1e12 == pytest.approx(4.62, abs=0.005)
    assert cost.prefill_flops == 2 * cost.unpruned_paper_multiply_adds
    assert cost.prefill_cut == cost.paper_cut == cost.kv_cut == 0


@pytest.mark.parametrize(
    ("budget", "published", "published_cut"), [(192, 2.14, 0.537), (128, 1.72, 0.628)]
)
def test_the_computed_count_is_the_published_one(
    budget: int, published: float, published_cut: float
) -> None:
    cost = at(budget)
    assert cost.prefill_flops / 2e12 == pytest.approx(published, rel=0.01)
    assert cost.prefill_cut == pytest.approx(published_cut, abs=0.005)


@pytest.mark.parametrize(
    ("budget", "computed", "nominal"),
    [(192, 0.538, 0.559), (128, 0.625, 0.650), (96, 0.670, 0.695), (64, 0.716, 0.741)],
)
def test_the_nominal_count_promises_more_than_the_chain_saves(
    budget: int, computed: float, nominal: float
) -> None:
    cost = at(budget)
    assert cost.prefill_cut == pytest.approx(computed, abs=0.0006)
    assert cost.paper_cut == pytest.approx(nominal, abs=0.0006)


def test_kv_bytes_of_the_visual_tokens_are_those_the_stages_hold() -> None:
    visual = at(192, num_text=0)
    assert [stage.num_visual for stage in visual.stages] == [576, 309, 204, 113]
    assert [stage.num_layers for stage in visual.stages] == [3, 4, 9, 16]
    assert visual.unpruned_kv_bytes == 576 * 2**19  # 0.5 MiB a token: the published 302 MB
    assert visual.kv_bytes == (3 * 576 + 4 * 309 + 9 * 204 + 16 * 113) * 2**14
    assert visual.kv_bytes / 1e6 == pytest.approx(108.3, abs=0.1)  # not the published 100.8
    assert at(192, num_text=0, recycles=False).kv_bytes < visual.kv_bytes


def test_the_sum_of_the_parts_by_hand() -> None:
    model = replace(
        LLAVA_7B, num_layers=1, hidden_size=8, intermediate_size=3, num_heads=4, num_kv_heads=2,
        head_dim=5, vocab_size=7, dtype="float32",
    )  # fmt: skip
    vision = VisionSpec(4, (2, 2), (6, 6), 0, 3, 5, 2, 5)
    stage = StageSpec("stage_0", 0, 1)
    cost = chain_cost(model, vision, [stage], None, num_visual=4, num_text=2, num_images=3)
    queries_and_output, keys_and_values, mlp = 2 * 8 * 20, 2 * 8 * 10, 3 * 8 * 3
    products = queries_and_output + keys_and_values + mlp
    assert cost.prefill_flops == 2 * (6 * products + 2 * 6 * 6 * 20)
    assert cost.head_flops == 2 * 8 * 7
    assert cost.decode_flops == 2 * (products + 2 * 7 * 20) + cost.head_flops
    assert cost.kv_bytes == 6 * (10 + 10) * 4
    patches = 4 * (3 * 3 * 3) * 3  # 4 patches of 3 x 3 pixels and 3 channels
    encoder = 2 * (5 * (4 * 3 * 3 + 2 * 3 * 5) + 2 * 5 * 5 * 3)
    projector = 4 * (3 * 8 + 8 * 8)
    assert cost.vision_flops == 3 * 2 * (patches + encoder + projector)
    assert cost.total_flops == cost.vision_flops + cost.prefill_flops + cost.head_flops


def test_grouped_heads_shrink_the_cache_and_the_projections() -> None:
    grouped = replace(LLAVA_7B, num_kv_heads=8)
    schedule = Schedule.from_budget(192, 32)
    cost = chain_cost(grouped, None, STAGES, schedule, **PROMPT)
    assert cost.kv_bytes * 4 == at(192).kv_bytes
    assert cost.prefill_flops < at(192).prefill_flops
    assert cost.vision_flops == 0


def test_a_text_only_prompt_costs_no_vision_and_saves_nothing() -> None:
    cost = at(64, num_visual=0)
    assert cost.vision_flops == 0
    assert cost.prefill_cut == cost.paper_cut == cost.kv_cut == 0


def test_a_boundary_that_the_schedule_leaves_out_changes_nothing() -> None:
    cost = chain_cost(LLAVA_7B, None, STAGES, Schedule.of({6: 100}), **PROMPT)
    assert [stage.num_visual for stage in cost.stages][:2] == [576, 576]
    assert cost.stages[2].num_visual == cost.stages[3].num_visual < 576


def test_what_cannot_be_counted_is_refused() -> None:
    with pytest.raises(PlanError, match=r"after layers \[3\] .* expected some of \[2, 6, 15\]"):
        chain_cost(LLAVA_7B, None, STAGES, Schedule.of({2: 300, 3: 200}), **PROMPT)
    with pytest.raises(PlanError, match="0 visual and 0 text tokens"):
        chain_cost(LLAVA_7B, None, STAGES, None, num_visual=0, num_text=0)


@given(st.integers(1, 5000))
def test_with_full_heads_ours_is_the_papers_formula(num_tokens: int) -> None:
    ours = layer_multiply_adds(LLAVA_7B, num_tokens, num_tokens)
    assert ours == paper_multiply_adds(LLAVA_7B, num_tokens)


@given(
    st.dictionaries(st.sampled_from([2, 6, 15]), st.integers(1, 700), min_size=1),
    st.integers(0, 3000),
    st.integers(1, 500),
    st.booleans(),
)
def test_pruning_never_costs_more_than_not(
    kept: dict[int, int], num_visual: int, num_text: int, recycles: bool
) -> None:
    cost = chain_cost(
        LLAVA_7B, CLIP, STAGES, Schedule.of(kept),
        num_visual=num_visual, num_text=num_text, recycles=recycles,
    )  # fmt: skip
    assert 0 <= cost.prefill_cut <= cost.paper_cut < 1
    assert 0 <= cost.kv_cut < 1
    assert all(stage.num_tokens == stage.num_visual + num_text for stage in cost.stages)
