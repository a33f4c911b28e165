"""Stage 0: teach the projector to say each patch in words, before any language model runs.

The target of a patch is the sum of the word embeddings of its cell's place and, where a digit
covers it, of that digit and its colour. Minutes of regression that save hours of training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from data import CELL_NAMES, COLORS, GRID, IMAGE_SIZE, Scene
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

MIN_COVER = 0.25  # share of a patch that a digit's box must cover to name the patch
BACKGROUND_SHARE = 0.25  # of the empty patches, to keep the classes in balance
NAMING_WEIGHT = 0.2  # of the cross entropies beside the regression
NOISE = 0.3  # of spoken patches, as a share of their deviation
SHARPNESS = 8.0  # logit of a word that a patch says exactly


@dataclass(frozen=True, slots=True)
class WordVectors:
    """Word embeddings, float32: `digits` `[10, D]`, `colors` `[8, D]`, `places` `[9, D]`."""

    digits: Tensor
    colors: Tensor
    places: Tensor


@dataclass(frozen=True, slots=True)
class PatchSet:
    """N patches: tower `features` `[N, 384]` and `digits`, `colors` (-1: none), `cells` `[N]`."""

    features: Tensor
    digits: Tensor
    colors: Tensor
    cells: Tensor


def word_vectors(embeddings: Tensor, tokenizer: Tokenizer) -> WordVectors:
    """Look up the words that questions use, each with its leading space except for digits."""

    def vector(text: str) -> Tensor:
        return embeddings[tokenizer.encode(text).ids].float().sum(0)

    return WordVectors(
        torch.stack([vector(str(digit)) for digit in range(10)]),
        torch.stack([vector(f" {color}") for color in COLORS]),
        torch.stack([vector(f" {name}") for row in CELL_NAMES for name in row]),
    )


def label_patches(scenes: Sequence[Scene], num_visual: int) -> tuple[Tensor, Tensor, Tensor]:
    """Name every patch of B scenes: its digit, its colour (-1: none) and its cell, `[B, V]`."""
    grid = int(num_visual**0.5)
    edges = torch.arange(grid + 1) * (IMAGE_SIZE / grid)
    digits = torch.full((len(scenes), grid, grid), -1)
    colors = torch.full_like(digits, -1)
    names = list(COLORS)
    for b, scene in enumerate(scenes):
        for item in scene.objects:
            left, top, right, bottom = item.box
            wide = (edges[1:].clamp(max=right) - edges[:-1].clamp(min=left)).clamp(min=0)
            high = (edges[1:].clamp(max=bottom) - edges[:-1].clamp(min=top)).clamp(min=0)
            covered = high[:, None] * wide > MIN_COVER * (IMAGE_SIZE / grid) ** 2
            digits[b][covered] = item.digit
            colors[b][covered] = names.index(item.color)
    steps = torch.arange(grid) * GRID // grid
    cells = (steps[:, None] * GRID + steps).expand_as(digits)
    return digits.flatten(1), colors.flatten(1), cells.flatten(1)


def patch_set(scenes: Sequence[Scene], features: Tensor) -> PatchSet:
    """Pair the tower's output for the scenes, `[B, V, 384]`, with the names of its patches."""
    labels = label_patches(scenes, features.shape[1])
    named = (label.flatten().to(features.device) for label in labels)
    return PatchSet(features.flatten(0, 1), *named)


def choose_shown(digits: Tensor, num_shown: int, rng: np.random.Generator) -> list[int]:
    """Draw the patches of one scene that training shows, ascending.

    Half of them are shared out among the digits, so that every question can be answered.

    Args:
        digits: Digit of each patch, `[V]`, -1 for none.
        num_shown: How many to draw; all of them when that is V.
        rng: Source of chance.
    """
    if num_shown == len(digits):
        return list(range(num_shown))
    present = np.unique(digits)[1:]  # without -1
    share = num_shown // 2 // len(present)
    piles = [rng.permutation(np.flatnonzero(digits == digit))[:share] for digit in present]
    named = np.concatenate(piles)
    others = np.setdiff1d(np.arange(len(digits)), named)
    return sorted([*named.tolist(), *rng.permutation(others)[: num_shown - len(named)].tolist()])


def spoken(labels: Sequence[Tensor], words: WordVectors, rng: np.random.Generator) -> Tensor:
    """Return what a perfect projector would say of patches, plus a little noise.

    Args:
        labels: Digits, colours and cells, `[B, K]` each.
        words: The words.
        rng: Source of the noise.

    Returns:
        `[B, K, D]`, float32.
    """
    digits, colors, cells = labels
    said = words.places[cells]
    said = said + (digits >= 0)[..., None] * (words.digits[digits] + words.colors[colors])
    noise = torch.from_numpy(rng.standard_normal(said.shape, dtype=np.float32))
    return said + NOISE * said.std() * noise.to(said.device)


def balance(patches: PatchSet) -> PatchSet:
    """Keep every patch with a digit and a share of the empty ones, drawn at random."""
    chance = torch.rand(len(patches.digits)).to(patches.digits.device)
    keep = (patches.digits >= 0) | (chance < BACKGROUND_SHARE)
    return PatchSet(
        patches.features[keep], patches.digits[keep], patches.colors[keep], patches.cells[keep]
    )


def targets_of(patches: PatchSet, words: WordVectors) -> Tensor:
    """Return the regression targets `[N, D]`, float32."""
    has_digit = (patches.digits >= 0)[:, None]
    named = words.digits[patches.digits] + words.colors[patches.colors]
    return words.places[patches.cells] + has_digit * named


def fold_in_standardisation(projector: LlavaMultiModalProjector, features: Tensor) -> None:
    """Rewrite the first layer so that it sees features of mean 0 and deviation 1."""
    mean, deviation = features.float().mean(0), features.float().std(0)
    with torch.no_grad():
        projector.linear_1.weight.div_(deviation)
        projector.linear_1.bias.sub_(projector.linear_1.weight @ mean)


def naming_losses(said: Tensor, patches: PatchSet, words: WordVectors) -> list[Tensor]:
    """Return the cross entropy of each patch's words against the others of their kind.

    Words of one kind lie close together; regression alone leaves them hard to tell apart.
    """
    losses = []
    for vectors, labels in (
        (words.digits, patches.digits),
        (words.colors, patches.colors),
        (words.places, patches.cells),
    ):
        apart = vectors - vectors.mean(0)
        logits = said @ apart.T * (SHARPNESS / apart.square().sum(1).mean())
        losses.append(nn.functional.cross_entropy(logits, labels, ignore_index=-1))
    return losses


def loss_of(said: Tensor, patches: PatchSet, words: WordVectors) -> Tensor:
    """Return how far the projector's `said` `[N, D]` is from the words of the patches."""
    wanted = targets_of(patches, words)
    regression = (said - wanted).square().mean() / wanted.var()
    return regression + NAMING_WEIGHT * torch.stack(naming_losses(said, patches, words)).sum()


def share_named(said: Tensor, patches: PatchSet, words: WordVectors) -> dict[str, float]:
    """Return how often the nearest word names a patch rightly (digit patches only)."""
    with_digit = patches.digits >= 0
    return {
        name: float(
            ((said[with_digit] @ (vectors - vectors.mean(0)).T).argmax(1) == labels[with_digit])
            .float()
            .mean()
        )
        for name, vectors, labels in (
            ("digit", words.digits, patches.digits),
            ("color", words.colors, patches.colors),
            ("where", words.places, patches.cells),
        )
    }
