"""Profiles derived from the limits: nothing that the chain can ask for lies outside."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsevlm_trt.runtime.bundle import Bundle
from sparsevlm_trt.runtime.engines.image_bounds import image_bounds
from sparsevlm_trt.runtime.engines.limits import CAPACITY_STEP, Limits
from sparsevlm_trt.runtime.engines.profiles import MAX_TOPK, graph_profiles
from sparsevlm_trt.runtime.errors import EngineError


@pytest.fixture(scope="module")
def bundle(bundle_of):
    return Bundle.open(bundle_of("llava-llama", "float16"), verify=False)


@pytest.fixture(scope="module")
def model(bundle):
    return bundle.manifest


def test_defaults_leave_room_for_the_image(bundle, model):
    limits = Limits.of(bundle)
    assert limits.max_prompt + limits.max_new_tokens <= model.model.max_position
    assert limits.max_prompt > model.vision.num_visual


def test_more_tokens_than_positions_are_refused(bundle):
    with pytest.raises(EngineError, match="512 in all"):
        Limits.of(bundle, max_prompt=500, max_new_tokens=100)


def test_images_that_fill_the_prompt_are_refused(bundle):
    with pytest.raises(EngineError, match="--max-images"):
        Limits.of(bundle, max_prompt=64, max_new_tokens=8, max_images=4)


@given(
    prompt=st.integers(20, 400),
    new=st.integers(1, 100),
    batch=st.integers(1, 4),
    images=st.integers(1, 1),
)
def test_every_range_is_ordered_and_reaches_the_limits(bundle, model, prompt, new, batch, images):
    limits = Limits(prompt, new, batch, images, image_bounds(bundle))
    for graph, spec in model.graphs.items():
        for kind in ("wide", "split"):
            profiles = graph_profiles(model, limits, graph, kind)
            assert [set(p) for p in profiles] == [{t.name for t in spec.inputs}] * len(profiles)
            for profile in profiles:
                for one in profile.values():
                    both = zip(one.min, one.opt, one.max, strict=True)
                    assert all(low <= usual <= high for low, usual, high in both)
    stage = graph_profiles(model, limits, "stage_0")[0]
    assert stage["hidden_states"].max[:2] == (batch, prompt)
    assert stage["hidden_states"].min[:2] == (1, 1)  # a decode step
    past = stage["past_key_values.0.key"]
    assert past.min[1] == 0
    assert past.max[1] >= prompt + new - 1
    assert past.max[1] % CAPACITY_STEP == 0


def test_split_profiles_are_prefill_and_decode(bundle, model):
    prefill, decode = graph_profiles(model, Limits.of(bundle), "stage_1", "split")
    assert prefill["hidden_states"].max[1] > 1
    assert decode["hidden_states"].max[1] == 1
    assert len(graph_profiles(model, Limits.of(bundle), "head", "split")) == 1


def test_later_stages_usually_see_fewer_tokens(bundle, model):
    usual = [
        graph_profiles(model, Limits.of(bundle), stage.graph)[0]["hidden_states"].opt[1]
        for stage in model.stages
    ]
    assert usual == sorted(usual, reverse=True)
    assert usual[0] > usual[-1]


def test_the_number_kept_stays_within_topk(model):
    many = replace(model, vision=replace(model.vision, num_visual=5000))
    limits = Limits(max_prompt=6000, max_new_tokens=10, max_batch=1, max_images=1)
    assert graph_profiles(many, limits, "prune_sparsevlm")[0]["num_kept"].max == (MAX_TOPK,)


def test_an_unknown_dim_is_named(bundle, model):
    graph = model.graphs["embed"]
    odd = replace(graph, inputs=(replace(graph.inputs[0], shape=("batch", "moons")),))
    with pytest.raises(EngineError, match="moons"):
        graph_profiles(replace(model, graphs={"embed": odd}), Limits.of(bundle), "embed")


def test_an_image_cut_in_crops_is_bounded_by_its_largest_resolution(bundle, model):
    vision = replace(model.vision, layout="anyres", resolutions=((112, 112), (56, 168)))
    # The whole image, and 2x2 crops of 4x4 tokens with a newline behind each of 8 rows.
    cut = image_bounds(replace(bundle, manifest=replace(model, vision=vision)))
    assert (cut.tokens, cut.rows) == (16 + 64 + 8, 5)
    whole = image_bounds(bundle)
    assert (whole.tokens, whole.rows, whole.least_tokens) == (16, 1, 16)
