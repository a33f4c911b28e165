from __future__ import annotations

import alignment
import numpy as np
import pytest
import torch
from data import DigitSamples, make_scene
from torch import nn


@pytest.mark.parametrize("num_visual", [144, 576])
def test_patches_carry_the_digits_of_the_scene(samples: DigitSamples, num_visual: int) -> None:
    scene = make_scene(samples, 0, "train", 0)
    digits, colors, cells = alignment.label_patches([scene], num_visual)
    assert digits.shape == colors.shape == cells.shape == (1, num_visual)
    for item in scene.objects:
        covered = digits[0] == item.digit
        assert covered.any()
        assert set(cells[0][covered].tolist()) == {item.row * 3 + item.column}
        assert len(set(colors[0][covered].tolist())) == 1
    assert ((digits == -1) == (colors == -1)).all()


def test_shown_patches_are_ascending_distinct_and_name_every_digit(samples: DigitSamples) -> None:
    for index in range(5):
        scene = make_scene(samples, 0, "train", index)
        digits = alignment.label_patches([scene], 576)[0][0]
        shown = alignment.choose_shown(digits, 48, np.random.default_rng(index))
        assert shown == sorted(set(shown))
        assert len(shown) == 48
        assert {o.digit for o in scene.objects} <= set(digits[shown].tolist())


def test_all_patches_are_shown_when_as_many_are_asked_for() -> None:
    shown = alignment.choose_shown(torch.full((144,), -1), 144, np.random.default_rng(0))
    assert shown == list(range(144))


def test_a_projector_learns_to_name_patches() -> None:
    torch.manual_seed(0)
    words = alignment.WordVectors(*torch.eye(27).split((10, 8, 9)))
    names = [torch.randint(n, (2048,)) for n in (10, 8, 9)]
    codes = [nn.functional.one_hot(name, n) for name, n in zip(names, (10, 8, 9), strict=True)]
    patches = alignment.PatchSet(torch.cat(codes, 1).float(), *names)
    projector = nn.Sequential(nn.Linear(27, 64), nn.GELU(), nn.Linear(64, 27))
    optimizer = torch.optim.AdamW(projector.parameters(), lr=3e-3)
    for _ in range(150):
        optimizer.zero_grad()
        alignment.loss_of(projector(patches.features), patches, words).backward()
        optimizer.step()
    said = projector(patches.features)
    assert min(alignment.share_named(said, patches, words).values()) > 0.9


def test_folding_in_keeps_the_function_of_standardised_features() -> None:
    torch.manual_seed(0)

    class Projector(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear_1 = nn.Linear(4, 3)

    projector = Projector()
    features = torch.randn(100, 4) * 5 + 2
    expected = projector.linear_1((features - features.mean(0)) / features.std(0))
    alignment.fold_in_standardisation(projector, features)
    torch.testing.assert_close(projector.linear_1(features), expected)
