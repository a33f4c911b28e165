"""`sparsevlm reference` on a tiny model: its answers are what the chain's are held against."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from sparsevlm_trt.runtime.cli import main

CONFIGS = ["none", "sparsevlm 1:9,3:5", "random 1:9,3:5"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    lines = []
    for number in range(2):
        name = f"{number}.png"
        Image.fromarray(rng.integers(0, 255, (60, 80, 3), np.uint8)).save(tmp_path / name)
        lines.append(json.dumps({"image": name, "question": "What is this?", "answers": ["x"]}))
    path = tmp_path / "questions.jsonl"
    path.write_text("\n".join(lines))
    return path


def _run(*words: object) -> str:
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return result.output


def test_chain_and_reference_agree_and_nothing_is_answered_twice(
    data: Path,
    tmp_path: Path,
    bundle_of: Callable[..., Path],
    checkpoint_of: Callable[[str], Path],
) -> None:
    bundle, out = bundle_of(), tmp_path / "reference.jsonl"
    asked = ["--data", data, "--schedule", "1:9,3:5", "--methods", "none,sparsevlm,random"]
    asked += ["--max-new-tokens", 4]
    _run("reference", bundle, checkpoint_of("llava-llama"), *asked, "--out", out)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["config"] for row in rows] == CONFIGS * 2
    assert rows[1]["stages"] == [[1, 16, 10], [3, 10, 6]]

    first = out.read_bytes()
    _run("reference", bundle, checkpoint_of("llava-llama"), *asked, "--out", out)
    assert out.read_bytes() == first

    told = _run(
        *("evaluate", bundle, *asked, "--out", tmp_path / "ours"),
        *("--agree-with", out, "--json"),
    )
    agreement = json.loads(told[told.index("{") :])["agreement"]
    assert {share["config"]: share["share"] for share in agreement["shares"]} == dict.fromkeys(
        CONFIGS, 1.0
    )
