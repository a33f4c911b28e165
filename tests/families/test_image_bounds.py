"""What one image of a family can become: no picture goes beyond the bounds that engines get."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sparsevlm_trt.runtime.engines.image_bounds import USUAL_TOKENS, image_bounds
from sparsevlm_trt.runtime.engines.limits import Limits
from sparsevlm_trt.runtime.errors import EngineError
from sparsevlm_trt.runtime.image_config import ImageConfig
from sparsevlm_trt.runtime.visuals.sizes import most_units, smart_size

KINDS = [
    "internvl",
    "llava-llama",
    "llava_next",
    "llava_onevision",
    "qwen2_5_vl",
    "qwen2_vl",
    "qwen3_vl",
    "smolvlm",
    "video_llava",
]
PATCHES = ["qwen2_5_vl", "qwen2_vl", "qwen3_vl"]
SIDES = st.integers(1, 500)


def qwen(least: int, most: int) -> ImageConfig:
    config = {"image_processor_type": "Qwen2VLImageProcessor"}
    return ImageConfig.from_hf(config | {"min_pixels": least, "max_pixels": most})


def block_length(session, text: str) -> int:
    """Tokens from the first visual one to the last."""
    ids = session.processor.encode(text)
    (places,) = np.nonzero(np.array(ids) == session.bundle.manifest.vision.image_token_id)
    return int(places[-1] - places[0] + 1)


@settings(max_examples=400, deadline=None)
@given(
    height=st.integers(1, 5000),
    width=st.integers(1, 5000),
    unit=st.sampled_from([28, 32]),
    bounds=st.tuples(st.integers(1, 3000), st.integers(1, 3000)),
)
def test_no_shape_has_more_units(height, width, unit, bounds):
    if max(height, width) > 200 * min(height, width):
        return
    least, most = (size * unit**2 for size in sorted(bounds))
    rows, columns = smart_size((height, width), unit, qwen(least, most))
    assert rows * columns <= most_units(unit, least, most) * unit**2


@pytest.mark.parametrize("kind", KINDS)
def test_no_image_goes_beyond_the_bounds(torch_sides, kind):
    session = torch_sides(kind).session
    bounds = image_bounds(session.bundle)
    layout = session.processor.layout
    largest = 0

    @settings(max_examples=60, deadline=None)
    @given(height=SIDES, width=SIDES)
    def check(height: int, width: int) -> None:
        nonlocal largest
        if max(height, width) > 100 * min(height, width):
            return  # some layouts refuse it
        visual = layout.image(Image.new("RGB", (width, height)), True)
        rows = len(next(iter(visual.inputs.values())))
        length = block_length(session, visual.text)
        assert rows <= bounds.rows
        assert bounds.least_tokens <= length <= bounds.tokens
        if bounds.is_block:
            assert length == visual.num_tokens
        largest = max(largest, rows)

    check()
    if kind in ("internvl", "smolvlm", "llava_next"):
        assert largest == bounds.rows  # not larger than needed


@pytest.mark.parametrize("kind", PATCHES)
def test_pixels_bound_patches(torch_sides, kind):
    bundle = torch_sides(kind).session.bundle
    vision = bundle.manifest.vision
    unit = vision.setting("patch_size") * vision.setting("merge_size")
    bounds = image_bounds(bundle, 20 * unit**2 + 5)
    assert (bounds.tokens, bounds.rows, bounds.pixels) == (20, 80, 20 * unit**2)
    # As large as the model takes, and no larger.
    assert image_bounds(bundle, 10**9) == image_bounds(bundle)
    assert image_bounds(bundle).tokens < USUAL_TOKENS
    with pytest.raises(EngineError, match=r"--max-image-pixels 1 \| expected \d+ or more"):
        image_bounds(bundle, 1)


def test_published_bounds_are_not_the_default(torch_sides, monkeypatch):
    bundle = torch_sides("qwen2_vl").session.bundle
    published = qwen(56 * 56, 16384 * 28 * 28)
    monkeypatch.setattr(ImageConfig, "open", lambda *_, **__: published)
    assert image_bounds(bundle).pixels == 1280 * 28 * 28
    assert image_bounds(bundle, 10**9).tokens == 16384
    # Where no image is smaller than that, the smallest fits.
    monkeypatch.setattr(ImageConfig, "open", lambda *_, **__: qwen(2000 * 28**2, 4000 * 28**2))
    assert image_bounds(bundle).tokens == 2000


def test_images_of_a_size_of_their_own_take_no_pixels(torch_sides):
    bundle = torch_sides("llava-llama").session.bundle
    with pytest.raises(EngineError, match=r"--max-image-pixels 5000 \| expected none"):
        Limits.of(bundle, max_image_pixels=5000)


def test_words_between_images_are_part_of_the_block(torch_sides):
    one = Limits.of(torch_sides("llava-llama").session.bundle)
    assert one.most_visual == one.image.tokens
    two = Limits.of(torch_sides("llava-llama").session.bundle, max_images=2)
    assert two.most_visual == two.max_prompt - 1
    assert two.most_rows == 2
    tiles = Limits.of(torch_sides("smolvlm").session.bundle)
    assert tiles.most_visual == tiles.max_prompt - 1


def test_pixels_that_fill_the_prompt_are_refused(torch_sides):
    bundle = torch_sides("qwen2_vl").session.bundle
    with pytest.raises(EngineError, match="--max-image-pixels"):
        Limits.of(bundle, max_images=9)
    assert Limits.of(bundle, max_images=9, max_image_pixels=20 * 28 * 28).most_rows == 720
