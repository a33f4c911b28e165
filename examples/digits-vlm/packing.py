"""Many questions about one picture in one sequence, each as if it were asked alone.

    head | visual tokens | question 1 + answer | question 2 + answer | ...

Every question attends to the head, the visual tokens and itself, never to another question, and
its positions start right after the picture. So each sees exactly the prompt that the chat
template makes for it, while the picture's cost is paid once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from processor import IMAGE_TOKEN_ID, PROMPT_HEAD, PROMPT_TAIL
from tokenizers import Tokenizer
from torch import Tensor

END_OF_TURN = "<|im_end|>"
IGNORED = -100  # torch's cross entropy skips this target
PADDING = -1  # segment number of padding; the shared head is 0, questions count from 1


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """B packed pictures, padded to L tokens.

    Attributes:
        input_ids: `[B, L]` int64.
        position_ids: `[B, L]` int64.
        mask: `[B, 1, L, L]` bool, True where the row may attend to the column.
        targets: `[B, L]` int64: the token that should follow, or `IGNORED`.
        segments: `[B, L]` int64: 0 for head and picture, k for question k, `PADDING`.
    """

    input_ids: Tensor
    position_ids: Tensor
    mask: Tensor
    targets: Tensor
    segments: Tensor

    def to(self, device: torch.device) -> PackedBatch:
        """Move all tensors."""
        return PackedBatch(
            self.input_ids.to(device),
            self.position_ids.to(device),
            self.mask.to(device),
            self.targets.to(device),
            self.segments.to(device),
        )


def prompt_text(question: str, image_tokens: str) -> str:
    """Return the prompt of one question, as the chat template writes it."""
    return PROMPT_HEAD + image_tokens + question + PROMPT_TAIL


def pack(
    dialogues: Sequence[Sequence[tuple[str, str]]],
    kept: Sequence[Sequence[int]],
    num_visual: int,
    tokenizer: Tokenizer,
) -> PackedBatch:
    """Lay out the (question, answer) pairs of each picture in one row.

    Args:
        dialogues: For each of B pictures, its pairs.
        kept: For each picture, which visual tokens are shown, ascending; as many for each.
            A token keeps the position it has in the whole picture.
        num_visual: Visual tokens of the whole picture.
        tokenizer: The model's tokenizer.
    """
    rows = [
        _pack_one(pairs, shown, num_visual, tokenizer)
        for pairs, shown in zip(dialogues, kept, strict=True)
    ]
    length = max(len(row[0]) for row in rows)
    filled = np.stack(
        [
            [
                np.pad(values, (0, length - len(values)), constant_values=fill)
                for values, fill in zip(row, (0, 0, IGNORED, PADDING), strict=True)
            ]
            for row in rows
        ]
    )
    ids, positions, targets, segments = torch.from_numpy(filled).unbind(1)
    own = segments[:, :, None] == segments[:, None, :]
    shared = segments[:, None, :] == 0
    mask = (own | shared) & torch.ones(length, length, dtype=torch.bool).tril()
    return PackedBatch(ids, positions, mask[:, None], targets, segments)


def _pack_one(
    pairs: Sequence[tuple[str, str]], shown: Sequence[int], num_visual: int, tokenizer: Tokenizer
) -> tuple[np.ndarray, ...]:
    """Return ids, positions, targets and segments `[L]`, int64, of one picture."""
    head = tokenizer.encode(PROMPT_HEAD).ids
    ids = [*head, *[IMAGE_TOKEN_ID] * len(shown)]
    positions = [*range(len(head)), *(len(head) + index for index in shown)]
    targets, segments = [IGNORED] * len(ids), [0] * len(ids)
    start = len(head) + num_visual
    for number, (question, answer) in enumerate(pairs, start=1):
        prompt = tokenizer.encode(question + PROMPT_TAIL).ids
        reply = tokenizer.encode(answer + END_OF_TURN).ids
        ids += prompt + reply[:-1]
        targets += [IGNORED] * (len(prompt) - 1) + reply
        added = len(prompt) + len(reply) - 1
        positions += range(start, start + added)
        segments += [number] * added
    return tuple(np.array(values, np.int64) for values in (ids, positions, targets, segments))
