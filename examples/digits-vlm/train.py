"""Train the digits VLM: alignment, then questions in the phases of PHASES.

A phase can be interrupted: run the same command again and it goes on where it was. The alignment
begins anew.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path

import align
import alignment
import numpy as np
import torch
from base_weights import GRIDS
from data import KINDS, DigitSamples, Scene, load_samples
from packages import DEFAULT_CACHE
from scene_batches import SceneBatches
from torch.nn import functional
from trainee import Trainee, evaluate

WEIGHTS = Path(__file__).parent / "weights"
BATCH_IMAGES = 4
HELDOUT_QUESTIONS = 12  # per scene, in a report
QUESTIONS_PER_IMAGE = 14
PROJECTOR_RATE = 3e-4
CLIP_NORM = 1.0
SAVE_SECONDS = 180
LOG_IMAGES = 100
ALIGN_IMAGES = 9000
ALIGNED = "aligned"  # names the weights after stage 0


@dataclass(frozen=True, slots=True)
class Phase:
    """One stretch of training on questions.

    Attributes:
        name: Names the files of the phase.
        after: Whose weights it starts from: an earlier phase, or `ALIGNED`.
        num_visual: Visual tokens per image.
        num_shown: How many of them training shows. Held-out questions always see all of them.
        is_spoken: Whether training shows what a perfect projector would say, not the picture.
        images: Fresh training images in this phase.
        lora_rate: Peak learning rate of the adapters.
    """

    name: str
    after: str
    num_visual: int
    num_shown: int
    images: int
    lora_rate: float
    is_spoken: bool = False


# Few tokens are cheap: the language model learns there how to look things up. The pictures come
# whole, so that no model here ever learns to do without some of its visual tokens.
PHASES = (
    Phase("spoken", ALIGNED, 576, 24, 1600, 1e-3, is_spoken=True),
    Phase("digits-vlm-576", "spoken", 576, 576, 400, 4e-4),
    Phase("digits-vlm-144", "spoken", 144, 144, 400, 4e-4),
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
    optimizer = torch.optim.AdamW(
        [
            {"params": list(trainee.projector.parameters()), "peak": PROJECTOR_RATE},
            {"params": trainee.parameters_of("language_model"), "peak": phase.lora_rate},
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
    held_out = SceneBatches(
        samples["heldout"], args.seed, "heldout", 0, args.heldout, BATCH_IMAGES
    )
    scenes = [scene for batch in held_out.draw(args.workers) for scene in batch]
    first, left = first_image + done, phase.images - done
    training = SceneBatches(samples["train"], args.seed, "train", first, left, BATCH_IMAGES)
    batches = training.draw(args.workers)
    words = alignment.word_vectors(trainee.embeddings, trainee.tokenizer)
    saved, losses = time.monotonic(), []
    while done < phase.images:
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * rate(done / phase.images)
        seen = next(batches)
        rng = np.random.default_rng([args.seed, first_image + done])  # resuming changes nothing
        chosen = [rng.permutation(len(s.questions))[:QUESTIONS_PER_IMAGE].tolist() for s in seen]
        labels = alignment.label_patches(seen, phase.num_visual)
        kept = [alignment.choose_shown(row, phase.num_shown, rng) for row in labels[0]]
        rows = (torch.arange(len(seen))[:, None], torch.tensor(kept))
        if phase.is_spoken:
            named = [label[rows].to(trainee.device) for label in labels]
            shown = alignment.spoken(named, words, rng)
        else:
            with torch.no_grad():
                patches = alignment.patch_set(seen, trainee.see(seen))
            said = trainee.projector(patches.features)
            naming = alignment.naming_losses(said, patches, words)
            shown = said.unflatten(0, (len(seen), -1))[rows]
        logits, targets = trainee.answer_logits(shown, trainee.pack(seen, chosen, kept))
        loss = functional.cross_entropy(logits.float(), targets)
        losses.append(float(loss.detach()))
        if not phase.is_spoken:  # without this the projector forgets what alignment taught it
            loss = loss + alignment.NAMING_WEIGHT * torch.stack(naming).sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(_learning(optimizer), CLIP_NORM)
        optimizer.step()
        optimizer.zero_grad()
        done += len(seen)
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
    parser.add_argument(
        "--align-images",
        type=int,
        default=ALIGN_IMAGES,
        help="pictures of the alignment; fewer save most of the time and name fewer patches",
    )
    parser.add_argument("--heldout", type=int, default=20, help="held-out scenes per report")
    parser.add_argument("--every", type=int, default=400, help="training images between reports")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu", help="where torch computes, e.g. cuda")
    parser.add_argument("--workers", type=int, default=0, help="processes that draw scenes")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.work.mkdir(parents=True, exist_ok=True)
    log = Log(args.work / "log.jsonl")
    samples = {split: load_samples(split, args.cache) for split in ("train", "heldout")}
    aligned = args.work / f"{ALIGNED}.safetensors"
    if not aligned.exists():
        trainees = [Trainee.from_packages(n, args.cache, args.device) for n in GRIDS]
        train_scenes = SceneBatches(
            samples["train"], args.seed, "train", 0, args.align_images, align.BATCH_IMAGES
        )
        held_out = SceneBatches(samples["heldout"], args.seed, "heldout", 0, 40, BATCH_IMAGES)
        align.align(trainees, train_scenes, held_out, args.workers, log)
        trainees[0].save(aligned, args.align_images)
    first_image = args.align_images
    for phase in PHASES:
        if not is_finished(phase, args.work):
            trainee = Trainee.from_packages(phase.num_visual, args.cache, args.device)
            trainee.load(args.work / f"{phase.after}.safetensors")
            run_phase(phase, trainee, samples, args, log, first_image)
        first_image += phase.images


if __name__ == "__main__":
    main()
