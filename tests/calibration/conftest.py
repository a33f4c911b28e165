"""Questions for tiny bundles, and a quantised bundle of each scheme."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sparsevlm_trt.calibration.quantize import quantize_bundle
from sparsevlm_trt.calibration.samples import read_samples
from sparsevlm_trt.calibration.schemes import find_scheme
from sparsevlm_trt.runtime.bundle import Bundle

NUM_IMAGES = 8


@pytest.fixture(scope="session")
def questions(tmp_path_factory) -> Path:
    """Eight questions about eight pictures of noise."""
    folder = tmp_path_factory.mktemp("calibration-data")
    random = np.random.default_rng(0)
    for number in range(NUM_IMAGES):
        pixels = random.integers(0, 256, (56, 56, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    lines = [
        {"image": f"{number}.png", "question": f"What is {number}?", "answers": ["x"]}
        for number in range(NUM_IMAGES)
    ]
    path = folder / "questions.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


@pytest.fixture(scope="session")
def quantized(tmp_path_factory, bundle_of, questions):
    """A quantised tiny bundle by scheme and type, made once: `quantized("int8", "float16")`."""
    made: dict[tuple[str, str, bool], Bundle] = {}

    def make(scheme: str, dtype: str = "float32", *, int8_cache: bool = False) -> Bundle:
        key = (scheme, dtype, int8_cache)
        if key not in made:
            out = tmp_path_factory.mktemp("quantized") / "bundle"
            source = Bundle.open(bundle_of("llava-llama", dtype))
            samples = read_samples(questions)
            quantize_bundle(source, out, find_scheme(scheme), samples, int8_cache=int8_cache)
            made[key] = Bundle.open(out)
        return made[key]

    return make
