"""Every family: the chain is transformers' model, and pruned it is our PyTorch reference."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from sparsevlm_ops.schedule import Schedule
from sparsevlm_trt.export.parity.prompts import prompt_from_visuals

BAR = 1e-4  # largest difference of a logit, float32
SCHEDULE = Schedule.of({1: 9})


@dataclass(frozen=True)
class Case:
    """A prompt: heights and widths of its images, frames of its video."""

    text: str
    sizes: tuple[tuple[int, int], ...] = ()
    frames: int = 0


IMAGE = Case("look: <image> what is it?", ((70, 90),))
TALL = Case("look: <image> what is it?", ((200, 50),))
IMAGES = Case("look: <image><image> what are they?", ((70, 90), (60, 33)))
TEXT = Case("there is no picture here")
VIDEO = Case("look: <video> what happens?", frames=4)

CASES = {
    "llava_next": {"image": IMAGE, "tall image": TALL, "images": IMAGES, "text": TEXT},
    "llava_onevision": {
        "image": IMAGE,
        "tall image": TALL,
        "images": IMAGES,
        "video": VIDEO,
        "text": TEXT,
    },
}


def picture(seed: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(256, size=(height, width, 3), dtype=np.uint8)


def spelled(text: str, placeholders: tuple[str, str]) -> str:
    """The text with the family's own placeholders."""
    return text.replace("<image>", placeholders[0]).replace("<video>", placeholders[1])


@pytest.mark.parametrize(
    ("kind", "case"), [(kind, case) for kind, cases in CASES.items() for case in cases]
)
def test_the_chain_is_the_model(family_sides, record, kind, case):
    sides, asked = family_sides(kind), CASES[kind][case]
    prompt = prompt_from_visuals(
        sides.session,
        case,
        spelled(asked.text, sides.session.processor.placeholders),
        images=[picture(i, *size) for i, size in enumerate(asked.sizes)],
        videos=[[picture(i, 40, 60) for i in range(asked.frames)]] if asked.frames else [],
    )
    unpruned = sides.compare_unpruned(prompt)
    assert unpruned.passed, unpruned
    answer = unpruned.answer
    assert answer.num_equal == 16
    errors = [answer.prefill_error, answer.step_error]
    if prompt.layout.num_visual:
        pruned = sides.compare_pruned(prompt, "sparsevlm", SCHEDULE)
        assert pruned.passed, pruned
        assert pruned.decisions.same
        assert pruned.answer.num_equal == 16
        errors += [pruned.answer.prefill_error, pruned.answer.step_error]
    assert max(errors) <= BAR
    record(kind, case, error=max(errors), tokens=16, num_visual=prompt.layout.num_visual)
