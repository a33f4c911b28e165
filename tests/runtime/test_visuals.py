"""Pixels and token ids of every layout are those of transformers' own processors.

Their image processors are the Pillow ones: the others need torchvision. Where a whole processor
needs torchvision too (it has a video part), its own rule for the placeholders is called alone.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny_checkpoints import IMAGE_ID, IMAGE_TOKEN, RESOLUTIONS, VIDEO_ID, save_tokenizer
from transformers import (
    InternVLProcessor,
    LlavaNextProcessor,
    LlavaOnevisionProcessor,
    PreTrainedTokenizerFast,
    Qwen2VLProcessor,
    Qwen3VLProcessor,
    SmolVLMProcessor,
)
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import (
    LlavaNextImageProcessorPil,
)
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import (
    LlavaOnevisionImageProcessorPil,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen3_vl.video_processing_qwen3_vl import smart_resize
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil
from transformers.video_utils import VideoMetadata
from transformers.vision_utils import (
    get_vision_interpolation_indices_and_weights,
    get_vision_position_ids,
    get_vision_window_index,
)

from sparsevlm_trt.runtime.errors import InputError
from sparsevlm_trt.runtime.image_config import ImageConfig
from sparsevlm_trt.runtime.image_processor import ImageProcessor
from sparsevlm_trt.runtime.model_spec import VisionSpec
from sparsevlm_trt.runtime.tokenizer import Tokenizer
from sparsevlm_trt.runtime.visuals.clip import Clip
from sparsevlm_trt.runtime.visuals.grids import position_table, window_numbers
from sparsevlm_trt.runtime.visuals.layouts import open_layout
from sparsevlm_trt.runtime.visuals.resample import resampled
from sparsevlm_trt.runtime.visuals.sizes import film_size
from sparsevlm_trt.runtime.visuals.visual import Visual, joined_inputs

TOLERANCE = 1e-5
BORDER = "<fake_token_around_image>"
SIDE = {"height": 56, "width": 56}
THEIRS = {
    "llava_next": LlavaNextImageProcessorPil(
        size={"shortest_edge": 56}, crop_size=SIDE, image_grid_pinpoints=RESOLUTIONS
    ),
    "llava_onevision": LlavaOnevisionImageProcessorPil(
        size=SIDE, image_grid_pinpoints=RESOLUTIONS
    ),
    "internvl": GotOcr2ImageProcessorPil(size=SIDE, crop_to_patches=True, max_patches=6),
    "qwen2_vl": Qwen2VLImageProcessorPil(size={"shortest_edge": 3136, "longest_edge": 31360}),
    "qwen3_vl": Qwen2VLImageProcessorPil(
        patch_size=16,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
        size={"shortest_edge": 4096, "longest_edge": 40960},
    ),
    "smolvlm": SmolVLMImageProcessorPil(
        size={"longest_edge": 112}, max_image_size={"longest_edge": 56}, return_row_col_info=True
    ),
}
LAYOUTS: dict[str, dict[str, Any]] = {
    "llava_next": {"layout": "anyres", "resolutions": tuple(map(tuple, RESOLUTIONS))},
    "llava_onevision": {
        "layout": "anyres",
        "resolutions": tuple(map(tuple, RESOLUTIONS)),
        "settings": {"max_tiles": 2},
    },
    "internvl": {"layout": "tiles", "settings": {"start_token": 260, "end_token": 261}},
    "smolvlm": {"layout": "split", "settings": {"border_token": 262, "whole_token": 263}},
    "qwen2_vl": {
        "layout": "patches",
        "settings": {"patch_size": 14, "merge_size": 2, "temporal_patch_size": 2},
    },
    "qwen3_vl": {
        "layout": "patches",
        "settings": {
            "patch_size": 16,
            "merge_size": 2,
            "temporal_patch_size": 2,
            "position_side": 6,
            "start_token": 264,
            "end_token": 265,
        },
    },
}
SHAPES = [(90, 70), (57, 56), (33, 200), (300, 31), (1, 40), (40, 1), (2500, 1900)]


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vocabulary")
    save_tokenizer(
        folder,
        start_image_token="<img>",
        end_image_token="</img>",
        fake_image_token=BORDER,
        global_image_token="<global-img>",
        vision_start_token="<|vision_start|>",
        vision_end_token="<|vision_end|>",
    )
    return Tokenizer.open(folder), PreTrainedTokenizerFast.from_pretrained(folder)


def spec_of(family: str) -> VisionSpec:
    side, tokens = (4, 16) if family not in ("internvl", "smolvlm") else (2, 4)
    return VisionSpec(
        num_visual=tokens,
        grid=(side, side),
        image_size=(56, 56),
        image_token_id=IMAGE_ID,
        hidden_size=8,
        intermediate_size=8,
        num_layers=1,
        num_positions=17,
        video_token_id=VIDEO_ID,
        **LAYOUTS[family],
    )


def layout_of(family: str, tokenizer: Tokenizer) -> Any:
    images = ImageProcessor.from_config(THEIRS[family].to_dict())
    return open_layout(spec_of(family), images, images, tokenizer)


def replaced(family: str, tokenizer: Any, made: Any, number: int) -> str:
    """The text that transformers puts for one placeholder."""
    image = {"image_token": IMAGE_TOKEN, "image_processor": THEIRS[family]}
    if family == "llava_next":
        whole = LlavaNextProcessor(
            THEIRS[family],
            tokenizer,
            patch_size=14,
            vision_feature_select_strategy="default",
            image_token=IMAGE_TOKEN,
            num_additional_image_tokens=1,
        )
        return whole.replace_image_token(made, number)
    if family == "llava_onevision":
        whole = LlavaOnevisionProcessor.__new__(LlavaOnevisionProcessor)
        image |= {"num_image_tokens": 16, "vision_feature_select_strategy": "full"}
        image |= {"vision_aspect_ratio": "anyres_max_2"}
    elif family == "internvl":
        whole = InternVLProcessor.__new__(InternVLProcessor)
        image |= {"image_seq_length": 4, "start_image_token": "<img>"}
        image |= {"end_image_token": "</img>"}
    elif family == "smolvlm":
        whole = SmolVLMProcessor.__new__(SmolVLMProcessor)
        image |= {"image_seq_len": 4, "fake_image_token": BORDER}
        image |= {"global_image_token": "<global-img>"}
    else:
        kind = Qwen3VLProcessor if family == "qwen3_vl" else Qwen2VLProcessor
        whole = kind.__new__(kind)
    vars(whole).update(image)
    return whole.replace_image_token(made, number)


def same(family: str, images: list[Any], vocabulary: tuple[Tokenizer, Any]) -> list[Visual]:
    ours, theirs = vocabulary
    layout = layout_of(family, ours)
    visuals = [layout.image(image, len(images) == 1) for image in images]
    several = family == "llava_onevision" and len(images) > 1
    nested = several or family == "smolvlm"
    made = THEIRS[family]([images] if nested else images, return_tensors="np")
    pixels = np.asarray(made["pixel_values"], np.float32)
    if family == "smolvlm":
        pixels = pixels[0]
    joined = joined_inputs(visuals)["pixel_values"]
    if "image_sizes" in made:  # they fill up to as many crops for each
        pixels = np.concatenate([p[: v.num_rows] for p, v in zip(pixels, visuals, strict=True)])
        assert [list(visual.size) for visual in visuals] == np.asarray(
            made["image_sizes"]
        ).tolist()
    assert joined.dtype == np.float32
    assert joined.shape == pixels.shape
    np.testing.assert_allclose(joined, pixels, rtol=0, atol=TOLERANCE)
    for number, visual in enumerate(visuals):
        text = replaced(family, theirs, made, number)
        assert visual.text == text
        assert ours.encode(f"a {text} b") == theirs(f"a {text} b")["input_ids"]
        assert ours.encode(text).count(IMAGE_ID) == visual.num_tokens
    return visuals


def picture(width: int, height: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    image = Image.fromarray(rng.integers(0, 256, (height, width, 4), dtype=np.uint8), "RGBA")
    return image if mode == "RGBA" else image.convert("RGB").convert(mode)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("family", THEIRS)
def test_every_shape(family, shape, vocabulary):
    same(family, [picture(*shape)], vocabulary)


@pytest.mark.parametrize("mode", ["RGBA", "L", "LA", "P", "CMYK"])
@pytest.mark.parametrize("family", THEIRS)
def test_every_mode(family, mode, vocabulary):
    same(family, [picture(90, 61, mode)], vocabulary)


@pytest.mark.parametrize("family", THEIRS)
def test_a_turned_photograph(family, vocabulary, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "turned.jpg"
    picture(90, 61).save(path, exif=exif)
    same(family, [str(path)], vocabulary)


@pytest.mark.parametrize("family", THEIRS)
def test_several_images(family, vocabulary):
    same(family, [picture(90, 61, seed=1), picture(50, 120, seed=2)], vocabulary)


@settings(max_examples=60, deadline=None)
@given(width=st.integers(2, 400), height=st.integers(2, 400))
@pytest.mark.parametrize("family", ["llava_next", "llava_onevision"])
def test_any_size_has_as_many_tokens(family, width, height, vocabulary):
    if max(width, height) / min(width, height) < 50:
        same(family, [picture(width, height)], vocabulary)


@pytest.mark.parametrize(
    ("family", "shape", "words"),
    [
        ("llava_next", (2, 4000), "a shape of which"),
        ("qwen2_vl", (2, 500), "at most 200 times as long"),
    ],
)
def test_a_line_is_no_picture(family, shape, words, vocabulary):
    with pytest.raises(InputError, match=words):
        layout_of(family, vocabulary[0]).image(picture(*shape), True)


@pytest.mark.parametrize("size", [(7, 7), (9, 4), (5, 12)])
def test_resampling_is_pytorchs(size):
    features = np.random.default_rng(0).normal(size=(3, 9, 11, 5)).astype(np.float32)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(features).permute(0, 3, 1, 2), size=size, mode="bilinear"
    ).permute(0, 2, 3, 1)
    np.testing.assert_allclose(resampled(features, *size), expected.numpy(), atol=1e-5)
    assert resampled(features.astype(np.float16), *size).dtype == np.float16


@pytest.mark.parametrize("time", [1, 3])
def test_patches_know_their_places(vocabulary, time):
    layout = layout_of("qwen2_vl", vocabulary[0])
    visual = layout.video(Clip([picture(90, 150, seed=n) for n in range(2 * time)]))
    _, rows, columns = visual.cells
    grid = torch.tensor([[time, 2 * rows, 2 * columns]])
    places = visual.inputs["patch_positions"]
    assert places.tolist() == get_vision_position_ids(grid, 2).tolist()
    one = places[: 4 * rows * columns]
    windows = window_numbers(one, time, 4)
    index, edges = get_vision_window_index(grid, 2, 56, 14)
    groups = [windows.reshape(-1, 4)[part] for part in np.split(index.numpy(), edges[1:-1] // 4)]
    assert all(len(np.unique(group)) == 1 for group in groups)
    assert len({int(group[0, 0]) for group in groups}) == len(groups)
    entries, shares = position_table(one, (2 * rows, 2 * columns), 6)
    assert shares.dtype == np.float32
    theirs, weights = get_vision_interpolation_indices_and_weights(
        grid[:, :], 6, align_corners=True, spatial_merge_size=2
    )
    table = np.random.default_rng(0).normal(size=36)
    ours = (table[entries] * shares).sum(axis=1)
    expected = (table[theirs.numpy()] * weights.numpy()).sum(axis=1)[: len(one)]
    np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_groups_of_two_pictures_stay_apart():
    part = {"pixel_values": np.zeros((4, 2), np.float32), "segments": np.array([0, 0, 1, 1])}
    one = Visual("video", part, 1, 1, "", (1, 1))
    assert joined_inputs([one, one])["segments"].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert joined_inputs([one, one])["pixel_values"].shape == (8, 2)


@pytest.mark.parametrize("num_frames", [2, 3, 4, 9])
@pytest.mark.parametrize("shape", [(90, 150), (20, 50), (31, 300), (900, 700), (1, 40)])
@pytest.mark.parametrize("tokens", [0, 5])
def test_a_film_is_sized_as_a_whole(shape, num_frames, tokens):
    least, most = 4096, 40960
    config = ImageConfig.from_hf(
        {
            "video_processor_type": "Qwen3VLVideoProcessor",
            "size": {"shortest_edge": least, "longest_edge": most},
            "cap_pixels_per_frame": tokens > 0,
            "max_video_tokens": tokens or 768,
        }
    )
    ours = film_size(shape, 32, config, num_frames=num_frames, depth=2)
    if tokens:  # as `Qwen3VLVideoProcessor.resize` has it, which needs torchvision
        frame = max(min(tokens * 32 * 32, most // num_frames), int(least * 1.05))
        most = frame * num_frames
    assert ours == smart_resize(num_frames, *shape, 2, 32, least, most)


@pytest.mark.parametrize(("num_frames", "rate"), [(2, 2.0), (5, 2.0), (8, 0.7), (7, 29.97)])
def test_frames_stand_behind_their_times(num_frames, rate, vocabulary):
    ours, theirs = vocabulary
    clip = Clip([picture(70, 90, seed=n) for n in range(num_frames)], rate)
    film = layout_of("qwen3_vl", ours).video(clip)
    time, rows, columns = film.cells
    whole = Qwen3VLProcessor.__new__(Qwen3VLProcessor)
    vars(whole).update(
        video_token="<video>",
        vision_start_token="<|vision_start|>",
        vision_end_token="<|vision_end|>",
        video_processor=SimpleNamespace(merge_size=2, temporal_patch_size=2),
    )
    shown = VideoMetadata(num_frames, fps=rate, frames_indices=list(range(num_frames)))
    grid = torch.tensor([[time, 2 * rows, 2 * columns]])
    text = whole.replace_video_token({"video_grid_thw": grid, "video_metadata": [shown]}, 0)
    assert film.text == text
    assert ours.encode(text) == theirs(text)["input_ids"]
    assert ours.encode(text).count(VIDEO_ID) == film.num_tokens == time * rows * columns
    assert film.blocks == [(n * rows * columns, (1, rows, columns)) for n in range(time)]


def test_one_frame_is_no_film(vocabulary):
    with pytest.raises(InputError, match="got one of 1 frames"):
        layout_of("qwen3_vl", vocabulary[0]).video(Clip([picture(70, 90)]))
