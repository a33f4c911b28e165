"""Every family: the chain is transformers' model, and pruned it is our PyTorch reference."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast
from transformers.models.smolvlm.processing_smolvlm import DEFAULT_CHAT_TEMPLATE

from sparsevlm_ops.schedule import Schedule
from sparsevlm_trt.export.checkpoint import Checkpoint
from sparsevlm_trt.export.families.registry import open_family
from sparsevlm_trt.export.parity.prompts import ParityPrompt, prompt_from_visuals
from sparsevlm_trt.export.to_onnx import onnx_from_module
from sparsevlm_trt.export.weights import WeightBinder
from sparsevlm_trt.runtime.errors import InputError
from sparsevlm_trt.runtime.graph_spec import StageSpec

BAR = 1e-4  # largest difference of a logit, float32
SCHEDULE = Schedule.of({1: 9})


@dataclass(frozen=True)
class Case:
    """A prompt: heights and widths of its images, frames of its video."""

    text: str
    sizes: tuple[tuple[int, int], ...] = ()
    frames: int = 0


STILLS = {
    "image": Case("look: <image> what is it?", ((70, 90),)),
    "tall image": Case("look: <image> what is it?", ((200, 50),)),
    "images": Case("look: <image> and <image> what are they?", ((70, 90), (60, 33))),
    "text": Case("there is no picture here"),
}
FILMS = STILLS | {"video": Case("look: <video> what happens?", frames=4)}
CASES = {
    "internvl": FILMS,
    "llava-llama": STILLS,
    "llava_next": STILLS,
    "llava_next_video": FILMS,
    "llava_onevision": FILMS,
    "qwen2_5_vl": FILMS,
    "qwen2_vl": FILMS,
    "qwen3_vl": FILMS,
    "smolvlm": FILMS,
    "video_llava": FILMS,
}


def picture(seed: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(256, size=(height, width, 3), dtype=np.uint8)


def asked(sides: Any, case: str, prompt: Case) -> ParityPrompt:
    """The prompt, with the family's own placeholders."""
    marks = sides.session.processor.placeholders
    text = prompt.text.replace("<image>", marks[0])
    return prompt_from_visuals(
        sides.session,
        case,
        text.replace("<video>", marks[1]) if prompt.frames else text,
        images=[picture(i, *size) for i, size in enumerate(prompt.sizes)],
        videos=[[picture(i, 40, 60) for i in range(prompt.frames)]] if prompt.frames else [],
    )


def compare(sides: Any, prompt: ParityPrompt, method: str = "sparsevlm") -> float:
    """The largest difference of a logit, unpruned and pruned; all else must be equal."""
    unpruned = sides.compare_unpruned(prompt)
    assert unpruned.passed, unpruned
    answer = unpruned.answer
    assert answer.num_equal == 16
    errors = [answer.prefill_error, answer.step_error]
    if prompt.layout.num_visual:
        pruned = sides.compare_pruned(prompt, method, SCHEDULE)
        assert pruned.passed, pruned
        assert pruned.decisions.same
        assert pruned.answer.num_equal == 16
        errors += [pruned.answer.prefill_error, pruned.answer.step_error]
    assert max(errors) <= BAR
    return max(errors)


@pytest.mark.parametrize(
    ("kind", "case"), [(kind, case) for kind, cases in CASES.items() for case in cases]
)
def test_the_chain_is_the_model(torch_sides, record, kind, case):
    sides = torch_sides(kind)
    prompt = asked(sides, case, CASES[kind][case])
    error = compare(sides, prompt)
    record(kind, case, error=error, tokens=16, num_visual=prompt.layout.num_patches)


@pytest.mark.parametrize("kind", CASES)
def test_words_between_images_are_never_dropped(torch_sides, kind):
    sides = torch_sides(kind)
    prompt = asked(sides, "images", STILLS["images"])
    words = list(prompt.layout.words)
    assert words
    for method in ("sparsevlm", "fastv"):
        result = sides.session.generate(
            prompt=prompt.text,
            images=list(prompt.images),
            method=method,
            schedule={1: 3},
            max_new_tokens=1,
        )
        (step,) = result.trace.stages
        assert set(words) <= set(step.kept.tolist())
        assert len(step.kept) == 3 + len(words)


def test_pooling_refuses_words_between_images(torch_sides):
    sides = torch_sides("llava-llama")
    manifest = sides.session.bundle.manifest
    prompt = asked(sides, "images", STILLS["images"])
    assert manifest.vision.layout == "block"
    from sparsevlm_ops.methods import get_method
    from sparsevlm_trt.runtime.boundary import Pruning
    from sparsevlm_trt.runtime.trace import Clock

    embeds = np.zeros((1, prompt.layout.length, 64), np.float32)
    pruning = Pruning(get_method("uniform"), SCHEDULE)
    with pytest.raises(InputError, match="words between images"):
        sides.session.chain.prefill(embeds, prompt.layout, pruning, 0, Clock())


def test_every_turn_prunes_for_its_own_question(torch_sides):
    session = torch_sides("llava_next").session
    image = {"type": "image"}
    first = [{"role": "user", "content": [image, {"type": "text", "text": "left or right?"}]}]
    options = {"images": [picture(0, 70, 90)], "schedule": {1: 9}, "max_new_tokens": 2}
    one = session.generate(messages=first, **options)
    turns = [
        *first,
        {"role": "assistant", "content": one.text or "left"},
        {"role": "user", "content": "and what colour is the sky above it?"},
    ]
    two = session.generate(messages=turns, **options)
    assert two.trace.num_visual == one.trace.num_visual  # from the full features again
    assert not np.array_equal(two.trace.stages[0].scores, one.trace.stages[0].scores)
    again = session.generate(messages=turns, **options)
    assert np.array_equal(again.trace.stages[0].kept, two.trace.stages[0].kept)


def test_a_conversation_with_a_video_has_its_own_template(torch_sides, checkpoint_of):
    session = torch_sides("smolvlm").session
    tokenizer = PreTrainedTokenizerFast.from_pretrained(checkpoint_of("smolvlm"))
    for kind, template in (("video", DEFAULT_CHAT_TEMPLATE), ("image", None)):
        parts = [{"type": kind}, {"type": "text", "text": "what happens?"}]
        turns = [{"role": "user", "content": parts}]
        rendered = tokenizer.apply_chat_template(
            turns, chat_template=template, add_generation_prompt=True, tokenize=False
        )
        assert session.processor.render(turns) == rendered
        assert f"<{kind}>" in rendered
        given = {f"{kind}s": [[picture(n, 40, 60) for n in range(3)]]}
        if kind == "image":
            given = {"images": [picture(0, 40, 60)]}
        result = session.generate(messages=turns, schedule={1: 3}, max_new_tokens=1, **given)
        assert len(result.trace.stages[0].kept) == 3 + len(result.trace.words)


@pytest.mark.slow
@pytest.mark.parametrize("kind", CASES)
def test_the_exported_chain_is_the_model(onnx_sides, record, kind):
    sides = onnx_sides(kind)
    for case, prompt in CASES[kind].items():
        error = compare(sides, asked(sides, case, prompt))
        record(kind, f"onnx {case}", error=error)


class NoWriter:
    """Keeps weights inside the graphs of these tiny models."""

    def add_weight(self, name: str, data: np.ndarray) -> str:
        raise AssertionError(f"{name} is too large for a tiny model")


@pytest.mark.slow
@pytest.mark.tensorrt
@pytest.mark.skipif(
    importlib.util.find_spec("tensorrt") is None,
    reason="no tensorrt module: install NVIDIA's, or the CPU stand-in",
)
@pytest.mark.parametrize("kind", CASES)
def test_tensorrt_builds_towers_and_stages(checkpoint_of, record, tmp_path, kind, monkeypatch):
    tensorrt = pytest.importorskip("tensorrt")
    from sparsevlm_trt.export import weights

    monkeypatch.setattr(weights, "INLINE_BYTES", 1 << 30)
    checkpoint = Checkpoint(checkpoint_of(kind))
    family = open_family(checkpoint, torch.float16)
    graphs = [graph for graph in (family.vision, family.video) if graph is not None]
    language, num_layers = family.language, family.language.config.num_layers
    graphs += [
        language.embed(),
        language.stage(StageSpec("stage_0", 0, 2)),  # scores follow
        language.stage(StageSpec("stage_1", 2, num_layers)),
        language.head(),
    ]
    for graph in graphs:
        model = onnx_from_module(graph, 23)
        WeightBinder(checkpoint, NoWriter()).bind(model, graph)
        path = tmp_path / f"{graph.name}.onnx"
        weights.ir.save(model, path)
        builder = tensorrt.Builder(tensorrt.Logger(tensorrt.Logger.ERROR))
        network = builder.create_network(0)
        parser = tensorrt.OnnxParser(network, tensorrt.Logger(tensorrt.Logger.ERROR))
        assert parser.parse_from_file(str(path)), [
            str(parser.get_error(i)) for i in range(parser.num_errors)
        ]
        profile = builder.create_optimization_profile()
        for value in model.graph.inputs:
            sizes = [[d if isinstance(d, int) else n for d in value.shape] for n in (4, 48, 96)]
            profile.set_shape(value.name, *(tuple(size) for size in sizes))
        config = builder.create_builder_config()
        config.add_optimization_profile(profile)
        assert builder.build_serialized_network(network, config) is not None
    record(kind, "tensorrt", built=True)
