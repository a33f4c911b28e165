"""Write the test split of easy-VQA as pictures and a questions.jsonl for `sparsevlm evaluate`.

easy-VQA (PyPI `easy-vqa`, MIT) is a published question set that nobody here made: 64-pixel
pictures of one coloured shape, thirteen answers. Kinds: shape, color, yes/no.
"""

from __future__ import annotations

import argparse
import json
import zipfile
from pathlib import Path

import numpy as np
from packages import DEFAULT_CACHE, EASY_VQA, fetch

TEST = "easy_vqa/data/test"
SHAPES = ("circle", "rectangle", "triangle")


def kind_of(answer: str) -> str:
    """Name the kind of a question by its answer."""
    if answer in SHAPES:
        return "shape"
    return "yes/no" if answer in ("yes", "no") else "color"


def write_questions(wheel: Path, out: Path, count: int, seed: int) -> int:
    """Write a drawn part of the test split, in its own order.

    Args:
        wheel: The easy-VQA wheel.
        out: Folder to write into; made when absent.
        count: Questions to draw without repetition, at most; 0: all.
        seed: Of the draw.

    Returns:
        Questions written.
    """
    out.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel) as archive:
        asked = json.loads(archive.read(f"{TEST}/questions.json"))
        drawn = np.random.default_rng(seed).permutation(len(asked))[: count or None]
        lines = []
        for question, answer, image in (asked[i] for i in sorted(drawn)):
            name = f"{image}.png"
            if not (out / name).exists():
                (out / name).write_bytes(archive.read(f"{TEST}/images/{name}"))
            record = {
                "image": name,
                "question": question[0].upper() + question[1:],
                "answers": [answer],
                "kind": kind_of(answer),
            }
            lines.append(json.dumps(record))
    (out / "questions.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return len(lines)


def main() -> None:
    """Read the command line and write the set."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="folder to write into")
    parser.add_argument("--count", type=int, default=500, help="questions to draw; 0: all 9,673")
    parser.add_argument("--seed", type=int, default=0, help="seed of the draw")
    parser.add_argument(
        "--cache", type=Path, default=DEFAULT_CACHE, help="downloads are kept here"
    )
    args = parser.parse_args()
    written = write_questions(fetch(EASY_VQA, args.cache), args.out, args.count, args.seed)
    print(f"{args.out}: {written} questions")


if __name__ == "__main__":
    main()
