"""Pictures of prune steps: the right patches, in the right colours, on what the model saw."""

from __future__ import annotations

import base64
import io
import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sparsevlm_trt.runtime.captions import stage_caption
from sparsevlm_trt.runtime.errors import InputError
from sparsevlm_trt.runtime.heat import HeatScale, heat_colours
from sparsevlm_trt.runtime.image_config import ImageConfig
from sparsevlm_trt.runtime.overlay import FATES, PANEL
from sparsevlm_trt.runtime.patch_map import PatchState, num_images, patch_map
from sparsevlm_trt.runtime.trace import StageTrace, Trace, follow_patches

GONE, DROPPED, RECYCLED, KEPT = PatchState
SIDE = 112  # a patch of the enlarged 3 x 3 image, in pixels
CONFIG = ImageConfig.from_hf(
    {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": 36},
        "crop_size": {"height": 36, "width": 36},
    }
)


def step(layer, patches, kept, candidates, num_merged):
    """A prune step on tokens that stand for `patches`; token i scores i."""
    kept = np.array(kept, np.int64)
    return StageTrace(
        layer=layer,
        num_visual_in=len(patches),
        num_visual_out=len(kept) + num_merged,
        num_merged=num_merged,
        kept=kept,
        scores=np.arange(len(patches), dtype=np.float32),
        merge_candidates=np.array(candidates, np.int64),
        patches=follow_patches(np.asarray(patches, np.int64), kept, num_merged),
    )


def make_trace(stages, num_visual=9, grid=(3, 3), image_config=CONFIG):
    return Trace(
        method="sparsevlm",
        prefix_length=1,
        num_visual=num_visual,
        num_text=3,
        grid=grid,
        stages=tuple(stages),
        cache_lengths=(),
        kv_bytes=(),
        timings_ms=(),
        prefill_ms=0.0,
        decode_ms=(),
        host_prefill_ms=0.0,
        host_decode_ms=(),
        image_config=image_config,
    )


@pytest.fixture
def trace():
    """Nine patches, then 4 and a merged one, then 2 and a merged one."""
    first = step(1, range(9), kept=[1, 4, 5, 8], candidates=[0, 7], num_merged=1)
    second = step(3, first.patches, kept=[2, 4], candidates=[3], num_merged=1)
    return make_trace([first, second])


@pytest.fixture
def photo():
    """A picture in landscape: its middle 36 x 36 pixels are red, the rest is green."""
    image = Image.new("RGB", (60, 36), (0, 255, 0))
    image.paste((255, 0, 0), (12, 0, 48, 36))
    return image


def test_the_first_step_acts_on_all_patches(trace):
    found = patch_map(trace, 0)
    expected = [
        [RECYCLED, KEPT, DROPPED],
        [DROPPED, KEPT, KEPT],
        [DROPPED, RECYCLED, KEPT],
    ]
    assert found.states.tolist() == expected
    assert found.scores.ravel().tolist() == list(range(9))
    assert found.merged.total == 0


def test_later_steps_are_followed_back_to_the_image(trace):
    found = patch_map(trace, 1)
    # The step saw patches 1, 4, 5, 8 and a merged token; it kept 5 and the merged one.
    expected = [
        [GONE, DROPPED, GONE],
        [GONE, DROPPED, KEPT],
        [GONE, GONE, RECYCLED],
    ]
    assert found.states.tolist() == expected
    nan = np.nan
    assert np.array_equal(
        found.scores.ravel(), [nan, 0, nan, nan, 1, 2, nan, nan, 3], equal_nan=True
    )
    assert (found.merged.kept, found.merged.recycled, found.merged.dropped) == (1, 0, 0)
    assert patch_map(trace, -1).states.tolist() == expected


@settings(deadline=None)
@given(st.data())
def test_no_token_is_lost_between_picture_and_trace(data):
    draw, patches, stages = data.draw, np.arange(12), []
    for layer in range(draw(st.integers(1, 4))):
        count = len(patches)
        if count < 2:
            break
        order = draw(st.permutations(range(count)))
        keep = draw(st.integers(1, count - 1))
        recycled = draw(st.integers(0, count - keep))
        num_merged = draw(st.integers(min(1, recycled), recycled))
        candidates = order[keep : keep + recycled]
        stages.append(step(layer, patches, sorted(order[:keep]), candidates, num_merged))
        patches = stages[-1].patches
    trace = make_trace(stages, num_visual=12, grid=(2, 3))
    for number, made in enumerate(stages):
        maps = [patch_map(trace, number, image) for image in range(2)]
        merged = maps[0].merged

        def total(state, maps=maps):
            return sum(one.count(state) for one in maps)

        assert total(KEPT) + merged.kept == len(made.kept)
        assert total(RECYCLED) + merged.recycled == len(made.merge_candidates)
        assert 12 - total(GONE) + merged.total == made.num_visual_in
        for one in maps:
            assert np.array_equal(np.isfinite(one.scores), one.states != GONE)
        kept = np.concatenate([one.states.ravel() for one in maps]) == KEPT
        assert np.flatnonzero(kept).tolist() == made.patches[made.patches >= 0].tolist()


def test_the_overlay_shows_the_crop_in_its_colours(trace, photo):
    drawn = np.asarray(trace.overlay(photo, 0), np.int64)
    assert drawn.shape == (360, 360, 3)  # 36 pixels, ten times: the least of PANEL or more
    middles = drawn[60::120, 60::120]
    assert middles[1, 1].tolist() == [255, 0, 0]  # kept; no green is left of the crop
    grey = 0.299 * 255
    for place, state in (((0, 0), RECYCLED), ((1, 0), DROPPED)):
        colour, cover = FATES[state]
        expected = (1 - cover) * grey + cover * np.array(colour)
        assert np.abs(middles[place] - expected).max() <= 1
    red = (drawn == [255, 0, 0]).all(axis=-1)
    edge = (drawn == 255).all(axis=-1)
    assert red.sum() + edge.sum() == 4 * 120 * 120
    assert not edge[130:230, 200:280].any()  # kept neighbours have no edge between them


def test_the_second_overlay_dims_what_was_gone_before(trace, photo):
    drawn = np.asarray(trace.overlay(photo, 1), np.int64)[60::120, 60::120]
    assert drawn[1, 2].tolist() == [255, 0, 0]
    assert drawn[0, 0].max() < drawn[0, 1].max() < 128


def test_the_image_may_come_in_any_form(trace, photo, tmp_path):
    photo.save(tmp_path / "photo.png")
    expected = trace.overlay(photo, 0)
    for form in (tmp_path / "photo.png", str(tmp_path / "photo.png"), np.asarray(photo), [photo]):
        assert trace.overlay(form, 0) == expected


def test_an_answer_from_embeddings_takes_the_image_as_it_is(trace):
    embedded = make_trace(trace.stages, image_config=None)
    drawn = embedded.overlay(Image.new("RGB", (36, 36), (0, 0, 255)), 0)
    assert drawn.getpixel((180, 180)) == (0, 0, 255)


def test_a_tower_that_leaves_pixels_out():
    """An image of 38 pixels and 3 patches of 12: the last two pixels belong to none."""
    trace = make_trace([step(1, range(9), list(range(8)), [], 0)], image_config=None)
    drawn = np.asarray(trace.overlay(Image.new("RGB", (38, 38), (255, 0, 0)), 0))
    assert drawn.shape == (342, 342, 3)
    assert drawn[100, 323].tolist() != drawn[100, 325].tolist()
    assert np.ptp(drawn[324:], axis=(0, 1)).max() == 0


def test_several_images_have_a_row_each(photo):
    trace = make_trace([step(1, range(18), [0, 9, 13], [1], 1)], num_visual=18)
    assert num_images(trace) == 2
    blue = Image.new("RGB", (36, 36), (0, 0, 255))
    second = trace.overlay([photo, blue], 0, number=1)
    assert second.getpixel((180, 180)) == (0, 0, 255)
    assert patch_map(trace, 0, 1).count(KEPT) == 2
    alone = make_trace([step(1, range(9), [0], [1], 1)]).strip(photo)
    both = trace.strip([photo, blue])
    assert both.width == alone.width
    assert both.height > 1.9 * alone.height
    later = Image.new("RGB", (500, 20))  # not of the block
    assert trace.strip([photo, blue, later]) == both


def test_a_strip_goes_on_below_after_four_columns(photo):
    stages, patches = [], np.arange(9)
    for layer in range(5):
        stages.append(step(layer, patches, range(1, len(patches)), [], 0))
        patches = stages[-1].patches
    wide = make_trace(stages[:3]).strip(photo)
    assert make_trace(stages).strip(photo).width == wide.width
    assert make_trace(stages).strip(photo).height > 1.8 * wide.height


def test_question_and_answer_stand_above(trace, photo):
    bare = trace.strip(photo)
    asked = trace.strip(photo, question="what " * 200, answer="größer \N{GREEK SMALL LETTER PI}")
    assert asked.width == bare.width
    assert asked.height > bare.height + 5 * 20
    assert trace.strip(photo, question="x" * 1000).width == bare.width


def test_captions_count(trace):
    assert stage_caption(patch_map(trace, 0)) == (
        "after layer 1: 9 -> 5 tokens",
        "patches: 4 kept, 2 recycled, 3 dropped",
        "1 merged token made of them",
    )
    assert stage_caption(patch_map(trace, 1))[-1] == "of 1 merged before: 1 kept"


def test_without_a_prune_step_the_strip_is_the_image(photo):
    strip = make_trace([]).strip(photo)
    assert strip.getpixel((18 + PANEL // 2, 18 + PANEL // 2)) == (255, 0, 0)
    with pytest.raises(InputError, match="stage 0"):
        make_trace([]).overlay(photo, 0)


def test_tokens_that_were_averaged_by_place(photo):
    """A method that pools keeps no token: nothing is said to be lost, and nothing scored."""
    first = step(1, range(9), kept=[], candidates=range(9), num_merged=4)
    second = step(3, first.patches, kept=[], candidates=range(4), num_merged=1)
    trace = make_trace([first, second])
    for number in range(2):
        found = patch_map(trace, number)
        assert found.count(RECYCLED) == 9
        assert not found.is_scored
        assert stage_caption(found)[1] == "all averaged by their place"
    assert trace.strip(photo)
    assert "no scores" in trace.page(photo)


class _Page(HTMLParser):
    """Collects what a test asks about."""

    def __init__(self):
        super().__init__()
        self.sources, self.titles, self.tags = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        found = dict(attrs)
        self.sources += [found[name] for name in ("src", "href") if name in found]

    def handle_data(self, data):
        if self.tags[-2:] == ["rect", "title"]:
            self.titles.append(data)


def test_the_page_holds_all_it_needs(trace, photo):
    text = trace.page(photo, question="<b>1 & 2</b>?", answer="<script>no</script>")
    page = _Page()
    page.feed(text)
    assert len(page.sources) == 5  # the image, two steps, two maps of scores
    for source in page.sources:
        kind, _, data = source.partition(",")
        assert kind == "data:image/png;base64"
        assert Image.open(io.BytesIO(base64.b64decode(data))).size == (360, 360)
    assert "script" not in page.tags
    assert "&lt;b&gt;1 &amp; 2&lt;/b&gt;?" in text
    assert not re.search(r"https?:", text)
    told = "kept, row 0, column 1, score 1"
    assert told in page.titles
    assert sum(title == told for title in page.titles) == 2  # on the overlay and on the scores


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"num_visual": 0}, "without visual tokens"),
        ({"grid": None}, "no grid"),
        ({"num_visual": 10}, "grid of 3x3"),
    ],
)
def test_refusals(photo, changes, told):
    trace = make_trace([], **changes)
    for draw in (trace.strip, trace.page, lambda image: trace.overlay(image, 0)):
        with pytest.raises(InputError, match=told) as caught:
            draw(photo)
        assert str(caught.value).count(" | ") == 3


def test_refusals_of_an_image_or_a_number(trace, photo):
    two = make_trace([step(1, range(18), [0], [], 0)], num_visual=18)
    with pytest.raises(InputError, match=r"got 1 image \| expected 2"):
        two.strip(photo)
    with pytest.raises(InputError, match="image 1"):
        trace.overlay(photo, 0, number=1)
    with pytest.raises(InputError, match="stage 2"):
        trace.overlay(photo, 2)
    with pytest.raises(InputError, match="readable image"):
        trace.overlay("nothing.png", 0)
    with pytest.raises(InputError, match="a pixel for each patch"):
        make_trace(trace.stages, image_config=None).overlay(Image.new("RGB", (2, 2)), 0)


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=40))
def test_hotter_is_never_darker(values):
    scores = np.array(sorted(values), np.float32)
    scale = HeatScale.of(scores)
    lightness = heat_colours(scores, scale) @ [0.299, 0.587, 0.114]
    assert (np.diff(lightness) >= -1e-3).all()


def test_a_heat_scale_ignores_what_is_no_number():
    scores = np.array([np.nan, 2.0, np.inf, 1.0], np.float32)
    scale = HeatScale.of(scores)
    assert scale is not None
    assert (scale.low, round(scale.high, 2)) == (1.0, 1.99)
    assert HeatScale.of(np.full(3, np.nan, np.float32)) is None
    flat = heat_colours(np.ones(4, np.float32), HeatScale(1.0, 1.0))
    assert np.ptp(flat, axis=0).max() == 0


def test_a_trace_loads_pillow_only_to_draw():
    code = "import sys, sparsevlm_trt.runtime; assert 'PIL' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
