"""Write held-out pictures and a questions.jsonl about them, one question a line.

Fields: image (file name), question, answers (list of accepted answers), kind (digit, color,
where, exists) and region ([left, top, right, bottom] in pixels of the digit asked about, or null).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from data import KINDS, Question, Scene, load_samples, make_scene
from packages import DEFAULT_CACHE


def pick(scene: Scene, count: int, rng: np.random.Generator) -> list[Question]:
    """Choose `count` questions of a scene, the kinds in turn, each at random."""
    chosen: list[Question] = []
    shuffled = [scene.questions[i] for i in rng.permutation(len(scene.questions))]
    piles = [[q for q in shuffled if q.kind == kind] for kind in KINDS]
    while len(chosen) < count and any(piles):
        chosen += [pile.pop() for pile in piles if pile]
    return chosen[:count]


def main() -> None:
    """Read the command line and write the set."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="folder to write into")
    parser.add_argument("--count", type=int, default=50, help="number of pictures")
    parser.add_argument(
        "--first", type=int, default=1000, help="index of the first held-out scene"
    )
    parser.add_argument("--per-image", type=int, default=4, help="questions about each picture")
    parser.add_argument("--seed", type=int, default=0, help="seed of the scenes")
    parser.add_argument(
        "--cache", type=Path, default=DEFAULT_CACHE, help="downloads are kept here"
    )
    args = parser.parse_args()
    samples = load_samples("heldout", args.cache)
    args.out.mkdir(parents=True, exist_ok=True)
    lines = []
    for index in range(args.first, args.first + args.count):
        scene = make_scene(samples, args.seed, "heldout", index)
        name = f"scene-{index:05d}.png"
        scene.image.save(args.out / name)
        for question in pick(scene, args.per_image, np.random.default_rng([args.seed, index])):
            record = {
                "image": name,
                "question": question.text,
                "answers": [question.answer],
                "kind": question.kind,
                "region": question.box,
            }
            lines.append(json.dumps(record))
    (args.out / "questions.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
