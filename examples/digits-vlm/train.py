"""Train the digits VLM: alignment, then questions in the phases of PHASES.

Every phase can be interrupted: run the same command again and it goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path

import alignment
import numpy as np
import torch
from data import KINDS, DigitSamples, Scene, load_samples, make_scene
from packages import DEFAULT_CACHE
from torch.nn import functional
from trainee import Trainee, evaluate

WEIGHTS = Path(__file__).parent / "weights"
BATCH_IMAGES = 2
ALIGN_BATCH = 8
HELDOUT_QUESTIONS = 12  # per scene, in a report
QUESTIONS_PER_IMAGE = 14
PROJECTOR_RATE = 3e-4
CLIP_NORM = 1.0
SAVE_SECONDS = 180
LOG_IMAGES = 40
ALIGN_IMAGES = {144: 800, 576: 800}
ALIGN_EPOCHS = 8


@dataclass(frozen=True, slots=True)
class Phase:
    """One stretch of training on questions.

    Attributes:
        name: Names the files of the phase.
        num_visual: Visual tokens per image.
        num_shown: How many of them training shows; fewer cost less, and what is learnt is the
            same. Held-out questions always see all of them.
        is_spoken: Whether training shows what a perfect projector would say, not the picture.
        images: Fresh training images in this phase.
        lora_rate: Peak learning rate of the adapters.
    """

    name: str
    num_visual: int
    num_shown: int
    images: int
    lora_rate: float
    is_spoken: bool = False


PHASES = (
    Phase("spoken-576", 576, 24, 640, 8e-4, is_spoken=True),
    Phase("sparse-576", 576, 48, 600, 5e-4),
    Phase("denser-576", 576, 96, 200, 4e-4),
    Phase("digits-vlm-144", 144, 144, 160, 3e-4),
    Phase("digits-vlm-576", 576, 576, 80, 2e-4),
)


class Log:
    """Prints one JSON object a line and keeps it in a file."""

    def __init__(self, path: Path) -> None:
        """Append to the file at `path`."""
        self.path = path
        self.start = time.monotonic()

    def __call__(self, **fields: object) -> None:
        """Write the fields with the seconds since this run began."""
        line = json.dumps({"s": round(time.monotonic() - self.start), **fields})
        print(line, flush=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


def align(samples: dict[str, DigitSamples], seed: int, cache: Path, log: Log, out: Path) -> None:
    """Stage 0 at both resolutions at once; writes the first weights to `out`."""
    parts, held_out = [], {}
    for num_visual, count in ALIGN_IMAGES.items():
        trainee = Trainee.from_packages(num_visual, cache)
        for split, first, stop in (("train", 0, count), ("heldout", 0, 40)):
            found = []
            for start in range(first, stop, ALIGN_BATCH):
                indices = range(start, min(start + ALIGN_BATCH, stop))
                scenes = [make_scene(samples[split], seed, split, i) for i in indices]
                found.append(alignment.patch_set(scenes, trainee.see(scenes)))
            if split == "train":
                parts += [alignment.balance(part) for part in found]
            else:
                held_out[num_visual] = alignment.concatenate(found)
        log(event="features", num_visual=num_visual, images=count)
    patches = alignment.concatenate(parts)
    words = alignment.word_vectors(trainee.embeddings, trainee.tokenizer)
    alignment.fold_in_standardisation(trainee.projector, patches.features)
    loss = alignment.fit(trainee.projector, patches, words, ALIGN_EPOCHS)
    for num_visual, held in held_out.items():
        said = alignment.readable(trainee.projector, held, words)
        log(event="aligned", loss=loss, num_visual=num_visual, **said)
    trainee.save(out, ALIGN_IMAGES[144])


def rate(progress: float) -> float:
    """Return the share of the peak learning rate: short warm-up, then a cosine to a tenth."""
    warm = min(1.0, progress / 0.04)
    return warm * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * progress)))


def report(trainee: Trainee, scenes: list[Scene], log: Log, **fields: object) -> None:
    """Log the held-out accuracy of each kind, one question per prompt."""
    rng = np.random.default_rng(0)
    chosen = [rng.permutation(len(s.questions))[:HELDOUT_QUESTIONS].tolist() for s in scenes]
    tally = evaluate(trainee, scenes, chosen, bool(fields.get("is_shuffled")))
    shares = {kind: round(tally[kind][0] / tally[kind][1], 3) for kind in KINDS}
    right, asked = (sum(pair[i] for pair in tally.values()) for i in (0, 1))
    log(event="heldout", asked=asked, all=round(right / asked, 3), **shares, **fields)


def run_phase(
    phase: Phase,
    trainee: Trainee,
    samples: dict[str, DigitSamples],
    args: argparse.Namespace,
    log: Log,
    first_image: int,
) -> None:
    """Train one phase, from its saved state when there is one, and write its weights."""
    state_file = args.work / f"{phase.name}.pt"
    adapters = [p for a in trainee.adapters.values() for p in (a.down, a.up)]
    optimizer = torch.optim.AdamW(
        [
            {"params": list(trainee.projector.parameters()), "peak": PROJECTOR_RATE},
            {"params": adapters, "peak": phase.lora_rate},
        ],
        betas=(0.9, 0.98),
        weight_decay=0.0,
    )
    done = 0
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        optimizer.load_state_dict(state["optimizer"])
        for parameter, value in zip(_learning(optimizer), state["parameters"], strict=True):
            parameter.data.copy_(value)
        done = state["done"]
    scenes = [make_scene(samples["heldout"], args.seed, "heldout", i) for i in range(args.heldout)]
    words = alignment.word_vectors(trainee.embeddings, trainee.tokenizer)
    saved, losses = time.monotonic(), []
    while done < phase.images:
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * rate(done / phase.images)
        rng = np.random.default_rng([args.seed, first_image + done])  # resuming changes nothing
        indices = range(first_image + done, first_image + done + BATCH_IMAGES)
        seen = [make_scene(samples["train"], args.seed, "train", index) for index in indices]
        chosen = [rng.permutation(len(s.questions))[:QUESTIONS_PER_IMAGE].tolist() for s in seen]
        digits, colors, cells = alignment.label_patches(seen, phase.num_visual)
        kept = [alignment.choose_shown(row, phase.num_shown, rng) for row in digits]
        rows = (torch.arange(len(seen))[:, None], torch.tensor(kept))
        if phase.is_spoken:
            shown = alignment.spoken((digits[rows], colors[rows], cells[rows]), words, rng)
        else:
            features = trainee.see(seen)
            said = trainee.projector(features)
            patches = alignment.patch_set(seen, features)
            naming = alignment.naming_losses(said.flatten(0, 1), patches, words)
            shown = said[rows]
        logits, targets = trainee.answer_logits(shown, trainee.pack(seen, chosen, kept))
        loss = functional.cross_entropy(logits.float(), targets)
        losses.append(float(loss.detach()))
        if not phase.is_spoken:  # without this the projector forgets what alignment taught it
            loss = loss + alignment.NAMING_WEIGHT * torch.stack(naming).sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(_learning(optimizer), CLIP_NORM)
        optimizer.step()
        optimizer.zero_grad()
        done += BATCH_IMAGES
        if done % LOG_IMAGES == 0:
            mean = round(float(np.mean(losses)), 4)
            log(event="train", phase=phase.name, images=done, loss=mean)
            losses = []
        if done % args.every == 0 or done >= phase.images:
            report(trainee, scenes, log, phase=phase.name, images=done)
        if time.monotonic() - saved > SAVE_SECONDS or done >= phase.images:
            _save_state(state_file, optimizer, done)
            trainee.save(args.work / f"{phase.name}.safetensors", first_image + done)
            saved = time.monotonic()
    report(trainee, scenes, log, phase=phase.name, is_shuffled=True)


def is_finished(phase: Phase, work: Path) -> bool:
    """Tell whether the saved state of a phase has seen all its images."""
    state_file = work / f"{phase.name}.pt"
    if not state_file.exists():
        return False
    done: int = torch.load(state_file, weights_only=True, mmap=True)["done"]
    return done >= phase.images


def _learning(optimizer: torch.optim.Optimizer) -> list[torch.nn.Parameter]:
    """Return the parameters that learn, in a fixed order."""
    return [p for group in optimizer.param_groups for p in group["params"]]


def _save_state(path: Path, optimizer: torch.optim.Optimizer, done: int) -> None:
    """Write all that resuming needs, atomically."""
    state = {
        "optimizer": optimizer.state_dict(),
        "parameters": [p.detach() for p in _learning(optimizer)],
        "done": done,
    }
    torch.save(state, path.with_suffix(".partial"))
    path.with_suffix(".partial").replace(path)


def main() -> None:
    """Run all phases that are not finished."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path, help="folder for states, logs and the trained weights")
    parser.add_argument(
        "--cache", type=Path, default=DEFAULT_CACHE, help="downloads are kept here"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--heldout", type=int, default=20, help="held-out scenes per report")
    parser.add_argument("--every", type=int, default=400, help="training images between reports")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.work.mkdir(parents=True, exist_ok=True)
    log = Log(args.work / "log.jsonl")
    samples = {split: load_samples(split, args.cache) for split in ("train", "heldout")}
    weights = args.work / "aligned.safetensors"
    if not weights.exists():
        align(samples, args.seed, args.cache, log, weights)
    first_image = ALIGN_IMAGES[144]
    for phase in PHASES:
        finished = args.work / f"{phase.name}.safetensors"
        if not is_finished(phase, args.work):
            trainee = Trainee.from_packages(phase.num_visual, args.cache)
            trainee.load(weights)
            run_phase(phase, trainee, samples, args, log, first_image)
        first_image += phase.images
        weights = finished


if __name__ == "__main__":
    main()
