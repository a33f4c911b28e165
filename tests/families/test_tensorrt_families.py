"""Families whose images keep their size: compiled by NVIDIA's builder, and run on the stand-in.

No engine runs here: see tests/runtime/host_engines.py for what stands for TensorRT and the GPU.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from sparsevlm_trt.runtime import Session
from sparsevlm_trt.runtime.bundle import Bundle
from sparsevlm_trt.runtime.cli import main
from sparsevlm_trt.runtime.engines.folder import EngineFolder
from sparsevlm_trt.runtime.engines.limits import Limits
from sparsevlm_trt.runtime.errors import RunnerError
from sparsevlm_trt.runtime.ort_gpu import RTX_PROVIDER, gpu_options
from sparsevlm_trt.runtime.tensorrt.runner import TensorRtRtxRunner

sys.path.insert(0, str(Path(__file__).parents[1] / "runtime"))
from host_engines import HostDevice, host_library

pytestmark = [
    pytest.mark.slow,  # an export to ONNX each
    pytest.mark.tensorrt,
    pytest.mark.skipif(
        importlib.util.find_spec("tensorrt") is None,
        reason="no tensorrt module: install NVIDIA's, or the CPU stand-in",
    ),
]
KINDS = ["qwen2_5_vl", "qwen2_vl", "qwen3_vl"]
OPTIONS = {"max_new_tokens": 5, "stop_tokens": (), "schedule": {1: 5}}
TOKENS = 12  # of the largest image, by the pixels given to compile


@pytest.fixture(scope="session")
def compiled_family(family_bundle_of, make_once):
    """A float16 bundle with all its engines, for two images of `TOKENS` tokens."""

    def make(kind: str) -> Path:
        bundle = family_bundle_of(kind, "float16")
        vision = Bundle.open(bundle, verify=False).manifest.vision
        unit = vision.setting("patch_size") * vision.setting("merge_size")

        def fill(out: Path) -> None:
            shutil.copytree(bundle, out)
            limits = ["--max-images", "2", "--max-image-pixels", str(TOKENS * unit**2)]
            command = ["compile", str(out), "--target", "tensorrt-rtx", "--no-cache", "--json"]
            result = CliRunner().invoke(main, [*command, *limits])
            assert result.exit_code == 0, result.output
            told = json.loads(result.stdout)
            assert {one["how"] for one in told["engines"].values()} <= {"built", "shared"}
            for graph, engine in told["engines"].items():
                peak, forecast = engine["record"]["peak_bytes"], told["forecasts"][graph]
                assert abs(peak / forecast["peak_bytes"] - 1) <= 0.25, graph

        return make_once(f"compiled-{kind}", fill)

    return make


def picture(seed: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(256, size=(height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("kind", KINDS)
def test_every_graph_is_built(compiled_family, kind):
    bundle = Bundle.open(compiled_family(kind))
    folder = EngineFolder(bundle, "tensorrt-rtx")
    assert set(folder.graphs()) == set(bundle.manifest.graphs)
    vision = folder.record("vision")
    merged = bundle.manifest.vision.setting("merge_size") ** 2
    for profile in vision.spec.profiles:
        ends = {(one.min[0], one.max[0]) for one in profile.values()}
        assert ends == {(merged, 2 * TOKENS * merged)}
    told = gpu_options(bundle, "vision", RTX_PROVIDER, None)["nv_profile_max_shapes"].split(",")
    assert f"segments:{Limits.of(bundle).most_rows}" in told
    words = vision.arguments
    assert "--max-image-pixels" in words
    # The command in the record asks for the same engines again.
    result = CliRunner().invoke(
        main, ["compile", str(bundle.path), "--target", "tensorrt-rtx", "--json", *words]
    )
    assert {one["how"] for one in json.loads(result.stdout)["engines"].values()} == {"ready"}


@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_those_of_the_plain_chain(compiled_family, kind):
    path = compiled_family(kind)
    bundle, device = Bundle.open(path, verify=False), HostDevice()
    runner = TensorRtRtxRunner(device=device, library=host_library(device))
    runner.load(bundle, list(bundle.manifest.graphs))
    with Session.load(path) as plain, Session(bundle, runner) as session:
        image, video = session.processor.placeholders
        requests = [
            {"prompt": f"look: {image} what is it?", "images": picture(0, 70, 90)},
            {
                "prompt": f"look: {image} and {image} what are they?",
                "images": [picture(0, 70, 90), picture(1, 60, 33)],
            },
            {
                "prompt": f"look: {video} what happens?",
                "videos": [[picture(n, 40, 60) for n in range(4)]],
            },
            {"prompt": "there is no picture here"},
        ]
        for request in requests:
            one = plain.generate(**request, **OPTIONS)
            other = session.generate(**request, **OPTIONS)
            assert one.tokens == other.tokens
            assert np.allclose(one.prefill_logits, other.prefill_logits, atol=1e-3)
            assert runner._memory.spilled_bytes == 0
        beyond = {"prompt": f"{image} what is it?", "images": picture(2, 300, 300)}
        with pytest.raises(RunnerError, match=r"graph vision .*--max-image-pixels") as caught:
            session.generate(**beyond, **OPTIONS)
        assert "sparsevlm compile" in str(caught.value)
        # A refusal leaves the session as it was.
        assert session.generate(**requests[0], **OPTIONS).tokens
