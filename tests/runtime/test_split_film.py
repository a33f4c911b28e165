"""SmolVLM's videos: pixels, words and ids are those of transformers' processors.

Its video processor needs torchvision to resize and normalise; here Pillow and PyTorch do that in
the real class, as its image processor does.
"""

from __future__ import annotations

import importlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tiny_checkpoints import IMAGE_ID, IMAGE_TOKEN, save_tokenizer
from transformers import PreTrainedTokenizerFast, SmolVLMProcessor
from transformers.image_processing_backends import TorchvisionBackend
from transformers.image_utils import SizeDict
from transformers.video_utils import VideoMetadata

from sparsevlm_trt.runtime.image_config import ImageConfig
from sparsevlm_trt.runtime.image_processor import ImageProcessor
from sparsevlm_trt.runtime.model_spec import VisionSpec
from sparsevlm_trt.runtime.tokenizer import Tokenizer
from sparsevlm_trt.runtime.visuals.clip import Clip
from sparsevlm_trt.runtime.visuals.layouts import open_layout
from sparsevlm_trt.runtime.visuals.numerals import cardinal

# Not by its short name: that is a stand-in where torchvision is missing.
theirs = importlib.import_module("transformers.models.smolvlm.video_processing_smolvlm")
num2words = pytest.importorskip("num2words", reason="in the extra `dev`").num2words

BORDER, TOLERANCE = "<fake_token_around_image>", 1e-5
CONFIG = {"size": {"longest_edge": 112}, "max_image_size": {"longest_edge": 56}}
SAMPLED = {"max_frames": 64, "fps": 1, "video_size": {"longest_edge": 84}}


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vocabulary")
    save_tokenizer(folder, fake_image_token=BORDER, global_image_token="<global-img>")
    return Tokenizer.open(folder), PreTrainedTokenizerFast.from_pretrained(folder)


def layout_of(tokenizer, config):
    processor = ImageProcessor.from_config(
        {"video_processor_type": "SmolVLMVideoProcessor"} | config
    )
    spec = VisionSpec(
        num_visual=4,
        grid=(2, 2),
        image_size=(56, 56),
        image_token_id=IMAGE_ID,
        hidden_size=8,
        intermediate_size=8,
        num_layers=1,
        num_positions=16,
        layout="split",
        settings={"border_token": 260, "whole_token": 261, "has_video_mark": 1},
    )
    return open_layout(spec, processor, processor, tokenizer)


def frames_of(count, height=70, width=90):
    rng = np.random.default_rng(count)
    return list(rng.integers(0, 256, (count, height, width, 3), dtype=np.uint8))


def pillow_resize(self, image, size, resample=None, **_):
    """Resize `[frames, 3, h, w]` or more dims, uint8."""
    flat = image.reshape(-1, *image.shape[-3:]).permute(0, 2, 3, 1).numpy()
    done = [Image.fromarray(one).resize((size.width, size.height), resample) for one in flat]
    stacked = torch.from_numpy(np.stack([np.asarray(one) for one in done])).permute(0, 3, 1, 2)
    return stacked.reshape(*image.shape[:-2], size.height, size.width)


def normalised(self, image, mean, std, **_):
    wide = [torch.as_tensor(one, dtype=torch.float32).reshape(3, 1, 1) for one in (mean, std)]
    return (image - wide[0]) / wide[1]


@pytest.mark.parametrize("shape", [(70, 90), (200, 50), (33, 200), (56, 56), (2, 40), (500, 700)])
@pytest.mark.parametrize("config", [CONFIG, CONFIG | {"size": None, "video_sampling": SAMPLED}])
def test_pixels(shape, config, vocabulary, monkeypatch):
    monkeypatch.setattr(TorchvisionBackend, "resize", pillow_resize)
    monkeypatch.setattr(TorchvisionBackend, "normalize", normalised)
    frames = frames_of(3, *shape)
    processor = theirs.SmolVLMVideoProcessor(**{k: v for k, v in config.items() if v})
    options = ("do_resize", "size", "resample", "do_rescale", "rescale_factor")
    options += ("do_normalize", "do_pad", "image_mean", "image_std")
    given_options = {name: getattr(processor, name) for name in options}
    given_options["size"] = SizeDict(longest_edge=processor.size["longest_edge"])
    video = torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2)
    made = processor._preprocess([video], **given_options, return_tensors="pt")["pixel_values"]
    film = layout_of(vocabulary[0], config).video(Clip(frames))
    ours = film.inputs["pixel_values"]
    assert ours.dtype == np.float32
    assert ours.shape == tuple(made.shape[1:]) == (3, 3, 56, 56)
    np.testing.assert_allclose(ours, made[0].numpy(), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(
    ("config", "edge"),
    [
        (CONFIG, 112),
        (CONFIG | {"video_sampling": SAMPLED}, 112),  # the order of their `__init__`
        ({"max_image_size": {"longest_edge": 56}, "video_sampling": SAMPLED}, 84),
        ({}, 1456),
    ],
)
def test_the_longest_side_of_a_frame(config, edge):
    copied = {name: dict(value) for name, value in config.items()}
    assert theirs.SmolVLMVideoProcessor(**copied).size["longest_edge"] == edge
    for kind in ("SmolVLMVideoProcessor", "SmolVLMImageProcessor"):  # one file for both, of old
        found = ImageConfig.from_hf({"image_processor_type": kind, **config})
        assert found.option("film_edge") == edge


@pytest.mark.parametrize(
    ("count", "rate", "duration"),
    [
        (1, 2.0, None),
        (3, 2.0, None),
        (8, 1.0, 8.4),
        (21, 29.97, 0.7),
        (64, 0.5, 130.0),
        (2, 1e-5, 1e5),
    ],
)
def test_words_and_ids(count, rate, duration, vocabulary):
    ours, tokenizer = vocabulary
    clip = Clip(frames_of(count, 20, 30), rate, duration=duration)
    film = layout_of(ours, CONFIG).video(clip)
    whole = SmolVLMProcessor.__new__(SmolVLMProcessor)
    vars(whole).update(
        image_seq_len=4,
        image_token=IMAGE_TOKEN,
        fake_image_token=BORDER,
        global_image_token="<global-img>",
    )
    shown = VideoMetadata(count, fps=rate, duration=duration, frames_indices=list(range(count)))
    made = {"pixel_values": np.empty((1, count)), "video_metadata": [shown]}
    text = whole.replace_video_token(made, 0)
    assert film.text == text
    assert ours.encode(text) == tokenizer(text)["input_ids"]
    assert ours.encode(text).count(IMAGE_ID) == film.num_tokens == 4 * count
    assert film.num_rows == count


def test_numbers_in_words():
    assert all(cardinal(number) == num2words(number) for number in range(3000))


@given(st.integers(0, 999_999))
def test_large_numbers_in_words(number):
    assert cardinal(number) == num2words(number)
