"""Our pixel values are those of transformers' own Pillow processors."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from sparsevlm_trt.runtime.errors import BundleError, InputError
from sparsevlm_trt.runtime.image_config import ImageConfig
from sparsevlm_trt.runtime.image_processor import ImageProcessor
from sparsevlm_trt.runtime.image_values import Size

TOLERANCE = 1e-5  # The arithmetic is the same; only the order of float32 operations could differ.
SMALL = {"size": {"shortest_edge": 28}, "crop_size": {"height": 28, "width": 28}}
DINOV2 = {
    "size": {"shortest_edge": 32},
    "crop_size": {"height": 28, "width": 28},
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
}
PROCESSORS = {
    "clip": CLIPImageProcessorPil(**SMALL),
    "clip_odd_crop": CLIPImageProcessorPil(
        size={"shortest_edge": 30}, crop_size={"height": 41, "width": 27}
    ),
    "clip_unconverted": CLIPImageProcessorPil(**SMALL, do_convert_rgb=False),
    "clip_as_is": CLIPImageProcessorPil(**SMALL, do_rescale=False, do_normalize=False),
    "siglip_padded": SiglipImageProcessorPil(
        size={"height": 28, "width": 21}, do_pad=True, pad_size={"height": 30, "width": 31}
    ),
    "dinov2": BitImageProcessorPil(**DINOV2),
    "siglip": SiglipImageProcessorPil(size={"height": 28, "width": 21}),
    "siglip_int": SiglipImageProcessorPil(size=28, do_center_crop=True, crop_size=28),
    "siglip_bilinear": SiglipImageProcessorPil(size={"height": 28, "width": 28}, resample=2),
    "llava": LlavaImageProcessorPil(**SMALL),
    "llava_square": LlavaImageProcessorPil(**SMALL, do_pad=True),
}


def picture(width, height, mode="RGB", seed=0):
    rng = np.random.default_rng(seed)
    image = Image.fromarray(rng.integers(0, 256, (height, width, 4), dtype=np.uint8), "RGBA")
    return image if mode == "RGBA" else image.convert("RGB").convert(mode)


def ours(theirs):
    return ImageProcessor.from_config(theirs.to_dict())


def same(theirs, image):
    expected = theirs(image, return_tensors="np")["pixel_values"].astype(np.float32)
    actual = ours(theirs)(image)
    assert actual.dtype == np.float32
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", PROCESSORS)
@settings(max_examples=15, deadline=None)
@given(width=st.integers(1, 90), height=st.integers(1, 90), seed=st.integers(0, 99))
def test_any_size_equals_transformers(name, width, height, seed):
    same(PROCESSORS[name], picture(width, height, seed=seed))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "L", "1", "P", "CMYK", "YCbCr", "I", "I;16", "F"])
@pytest.mark.parametrize("name", ["clip", "dinov2", "siglip", "llava_square"])
def test_every_mode_equals_transformers(name, mode):
    image = picture(33, 47, "L" if mode == "I;16" else mode)
    same(PROCESSORS[name], image.convert(mode))


def test_transparent_palette_equals_transformers():
    image = picture(33, 47, "P")
    image.info["transparency"] = 3
    same(PROCESSORS["clip"], image)


@pytest.mark.parametrize("mode", ["YCbCr", "HSV", "RGB"])
def test_unconverted_bands_are_taken_as_they_lie(mode):
    same(PROCESSORS["clip_unconverted"], picture(31, 35, mode))


@pytest.mark.parametrize("shape", [(1, 900), (900, 1), (1, 1), (2500, 1900)])
@pytest.mark.parametrize("name", ["clip", "siglip", "llava_square"])
def test_extreme_shapes_equal_transformers(name, shape):
    same(PROCESSORS[name], picture(*shape))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_path_is_turned_upright_as_load_image_does(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "turned.jpg"
    picture(40, 25).save(path, exif=exif)
    same(PROCESSORS["clip"], str(path))
    as_path = ours(PROCESSORS["clip"])(path)
    np.testing.assert_array_equal(as_path, ours(PROCESSORS["clip"])(str(path)))


def test_an_opened_image_keeps_its_orientation(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "turned.png"
    picture(40, 25).save(path, exif=exif)
    same(PROCESSORS["clip"], Image.open(path))


@pytest.mark.parametrize("mode", ["RGBA", "P", "LA", "L"])
def test_a_path_equals_transformers_in_every_mode(tmp_path, mode):
    path = tmp_path / "image.png"
    picture(33, 47, mode).save(path)
    same(PROCESSORS["dinov2"], str(path))


@pytest.mark.parametrize("shape", [(33, 47, 3), (33, 47, 4), (33, 47, 1), (3, 33, 47)])
def test_an_array_equals_transformers(shape):
    same(PROCESSORS["clip"], np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))


def test_a_flat_array_is_grey():
    grey = np.random.default_rng(0).integers(0, 256, (33, 47), dtype=np.uint8)
    processor = ours(PROCESSORS["clip"])
    np.testing.assert_array_equal(processor(grey), processor(grey[:, :, None]))


def test_several_images_stack_in_order():
    processor = ours(PROCESSORS["clip"])
    images = [picture(40, 30, seed=1), picture(30, 50, seed=2)]
    both = processor(images)
    assert both.shape == (2, 3, 28, 28)
    for i, image in enumerate(images):
        np.testing.assert_array_equal(both[i], processor(image)[0])


def test_padding_without_a_size_takes_the_largest():
    theirs = CLIPImageProcessorPil(**SMALL, do_center_crop=False, do_pad=True)
    images = [picture(40, 30), picture(30, 50)]
    expected = theirs(images, return_tensors="np")["pixel_values"]
    np.testing.assert_allclose(ours(theirs)(images), expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", PROCESSORS)
def test_a_saved_folder_opens(tmp_path, name):
    PROCESSORS[name].save_pretrained(tmp_path)
    assert ImageProcessor.open(tmp_path) == ours(PROCESSORS[name])


def test_a_nested_processor_config_opens(tmp_path):
    (tmp_path / "processor_config.json").write_text(
        '{"image_processor": {"image_processor_type": "SiglipImageProcessorFast"}}'
    )
    assert ImageProcessor.open(tmp_path).config.size == Size(224, 224)


def test_the_defaults_are_transformers_own():
    for theirs in (BitImageProcessorPil, CLIPImageProcessorPil, SiglipImageProcessorPil):
        kind = theirs.__name__.removesuffix("Pil")
        assert ImageConfig.from_hf({"image_processor_type": kind}) == ImageConfig.from_hf(
            theirs().to_dict()
        )
    nulls = {"image_processor_type": "CLIPImageProcessor", "size": None, "do_resize": None}
    assert ImageConfig.from_hf(nulls) == ImageConfig.from_hf(CLIPImageProcessorPil().to_dict())


def test_all_bad_values_are_named_at_once():
    config = {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"longest_edge": 3},
        "crop_size": {"height": 0, "width": 4},
        "image_std": [0, 1, 1],
        "image_mean": "grey",
        "resample": 77,
        "do_rescale": "yes",
        "rescale_factor": float("nan"),
    }
    with pytest.raises(BundleError) as caught:
        ImageConfig.from_hf(config)
    for key in ("size", "crop_size", "image_std", "image_mean", "resample", "do_rescale"):
        assert key in str(caught.value)


@pytest.mark.parametrize("kind", ["ViltImageProcessor", None])
def test_an_unknown_type_answers_with_the_supported_ones(kind):
    with pytest.raises(BundleError, match="CLIPImageProcessor, LlavaImageProcessor"):
        ImageConfig.from_hf({"image_processor_type": kind})


def test_a_folder_without_a_processor_is_refused(tmp_path):
    with pytest.raises(BundleError, match=r"preprocessor_config\.json"):
        ImageProcessor.open(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text("{")
    with pytest.raises(BundleError, match="expected JSON"):
        ImageProcessor.open(tmp_path)


def test_a_resize_that_would_exhaust_memory_is_refused():
    with pytest.raises(InputError, match="after resizing 1x900000"):
        ours(PROCESSORS["clip"])(Image.new("RGB", (1, 900_000)))
    with pytest.raises(InputError, match="after padding to a square"):
        ours(PROCESSORS["llava_square"])(Image.new("RGB", (1, 900_000)))


def test_results_of_different_sizes_are_refused():
    config = {"image_processor_type": "CLIPImageProcessor", "do_resize": False}
    processor = ImageProcessor.from_config(config | {"do_center_crop": False})
    with pytest.raises(InputError, match="expected one size"):
        processor([picture(4, 5), picture(5, 5)])
    with pytest.raises(InputError, match="got none"):
        processor([])
    padded = ImageProcessor.from_config(
        config | {"do_center_crop": False, "do_pad": True, "pad_size": 4}
    )
    with pytest.raises(InputError, match="4x4 to pad"):
        padded(picture(4, 5))


@pytest.mark.parametrize("size", [(70, 50), (33, 90), (56, 56)])
def test_the_picture_seen_gives_the_same_pixels_again(size):
    config = {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": 64},
        "crop_size": {"height": 56, "width": 56},
    }
    processor = ImageProcessor.from_config(config)
    image = Image.fromarray(np.random.default_rng(1).integers(0, 255, (*size, 3), np.uint8))
    (seen,) = processor.seen(image)
    assert (seen.mode, seen.size) == ("RGB", (56, 56))
    bare = {**config, "do_resize": False, "do_center_crop": False}
    assert np.array_equal(ImageProcessor.from_config(bare)(seen), processor(image))
