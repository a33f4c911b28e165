"""Stage 0: tower and projector learn to say each patch in words, at both resolutions at once.

No language model runs: the targets are its word embeddings (see alignment.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import alignment
import torch
from scene_batches import SceneBatches
from trainee import Trainee

BATCH_IMAGES = 8
PROJECTOR_RATE = 1e-3
TOWER_RATE = 1e-3
LOG_STEPS = 100


def align(
    trainees: Sequence[Trainee],
    training: SceneBatches,
    held_out: SceneBatches,
    workers: int,
    log: Callable[..., None],
) -> None:
    """Train the tower's adapters and the projector of all trainees, shared from the first.

    Args:
        trainees: One for each resolution.
        training: The scenes, each seen once at each resolution.
        held_out: Scenes to report on.
        workers: Processes that draw scenes.
        log: Takes what is to be reported, by name.
    """
    first = trainees[0]
    for other in trainees[1:]:
        other.share(first)
    words = alignment.word_vectors(first.embeddings, first.tokenizer)
    _standardise(trainees, training)
    learning = [*first.projector.parameters(), *first.parameters_of("vision_tower")]
    optimizer = torch.optim.AdamW(
        [
            {"params": list(first.projector.parameters())},
            {"params": first.parameters_of("vision_tower")},
        ],
        weight_decay=0.0,
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, [PROJECTOR_RATE, TOWER_RATE], len(training), pct_start=0.1
    )
    total = 0.0
    for step, scenes in enumerate(training.draw(workers), start=1):
        for trainee in trainees:
            patches = alignment.balance(alignment.patch_set(scenes, trainee.see(scenes)))
            loss = alignment.loss_of(first.projector(patches.features), patches, words)
            loss.backward()
            total += float(loss.detach())
        torch.nn.utils.clip_grad_norm_(learning, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if step % LOG_STEPS == 0:
            mean = round(total / LOG_STEPS / len(trainees), 4)
            log(event="align", images=step * training.size, loss=mean)
            total = 0.0
    with torch.no_grad():
        for trainee in trainees:
            scenes = [scene for batch in held_out.draw(workers) for scene in batch]
            patches = alignment.patch_set(scenes, trainee.see(scenes))
            said = alignment.share_named(first.projector(patches.features), patches, words)
            log(event="aligned", num_visual=trainee.num_visual, **said)


def _standardise(trainees: Sequence[Trainee], training: SceneBatches) -> None:
    """Make the projector see features of mean 0 and deviation 1, by the first batches."""
    with torch.no_grad():
        seen = [
            trainee.see(training[batch]).flatten(0, 1)
            for trainee in trainees
            for batch in range(min(4, len(training)))
        ]
    alignment.fold_in_standardisation(trainees[0].projector, torch.cat(seen))
