"""A bundle, a runner, and what a program calls: images and text in, answers out."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sparsevlm_trt.runtime.answer_row import Event, Result
from sparsevlm_trt.runtime.bundle import Bundle
from sparsevlm_trt.runtime.chain import Chain
from sparsevlm_trt.runtime.closing import Closing
from sparsevlm_trt.runtime.device_array import joined
from sparsevlm_trt.runtime.errors import InputError
from sparsevlm_trt.runtime.generation import drain, generate, pieces
from sparsevlm_trt.runtime.guarded_options import guarded_options, question_of
from sparsevlm_trt.runtime.processor import Processor
from sparsevlm_trt.runtime.prompt import Messages, Prompt, prompt_from_embeds, prompt_from_text
from sparsevlm_trt.runtime.request import Options, Request, make_request
from sparsevlm_trt.runtime.runner import Array, Runner, open_runner
from sparsevlm_trt.runtime.runner_choice import AUTO, load_best
from sparsevlm_trt.runtime.trace import Clock
from sparsevlm_trt.runtime.visuals.feature_cache import FeatureCache

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["IMAGE_CACHE_BYTES", "Session"]

IMAGE_CACHE_BYTES = 64 << 20  # a LLaVA-1.5-7B image is 4.7 MB in float16


class Session(Closing):
    """Answers prompts with one bundle on one runner.

    Calls do not share anything but the graphs, so threads may share a session.

    Attributes:
        bundle: The bundle.
        runner: The engine that runs its graphs.
        processor: Its tokenizer, chat template and image processor, opened when first used.
        chain: The stages and prune steps on arrays.
    """

    def __init__(self, bundle: Bundle, runner: Runner, image_cache_bytes: int = 0) -> None:
        """Take an opened bundle, and a runner that has loaded its graphs."""
        self.bundle = bundle
        self.runner = runner
        self.processor = Processor(bundle)
        self.chain = Chain(bundle.manifest, runner, FeatureCache(image_cache_bytes))

    @classmethod
    def load(
        cls,
        path: str | Path,
        runner: str = "onnxruntime",
        *,
        verify: bool = True,
        image_cache_bytes: int = IMAGE_CACHE_BYTES,
        **runner_options: Any,
    ) -> Session:
        """Open a bundle and load its graphs.

        Args:
            path: The bundle's folder.
            runner: Name of an engine, or "auto" for the fastest that loads the bundle here; it
                takes `threads` alone.
            verify: Whether to hash every file first.
            image_cache_bytes: How much of the latest images' features is kept, so that the next
                question about one needs no vision; 0 for nothing, as a measurement of time wants.
            runner_options: What the engine takes, e.g. `providers=["CUDAExecutionProvider"]` or
                `threads=4`.

        Raises:
            BundleError: The bundle is missing, incomplete or altered.
            RunnerError: The engine is unknown, not installed, or cannot load a graph.
        """
        if runner == AUTO:
            bundle = Bundle.open(path, verify=verify)
            engine, _ = load_best(bundle, list(bundle.manifest.graphs), **runner_options)
            return cls(bundle, engine, image_cache_bytes)
        engine = open_runner(runner, **runner_options)
        try:
            bundle = Bundle.open(path, verify=verify)
            engine.load(bundle, list(bundle.manifest.graphs))
        except BaseException:
            engine.close()
            raise
        return cls(bundle, engine, image_cache_bytes)

    def generate(
        self,
        *,
        images: Any = None,
        videos: Any = None,
        prompt: str | None = None,
        messages: Messages | None = None,
        **options: Unpack[Options],
    ) -> Result:
        """Answer one prompt.

        Args:
            images: One image or a sequence of them: paths, Pillow images or uint8 arrays.
            videos: One video or a sequence of them: paths of files, lists of images, or clips
                (`load_video`).
            prompt: Used as it is, with one placeholder for each image and video.
            messages: A conversation for the chat template, in place of a prompt.
            options: See `Options`.

        Raises:
            InputError: The prompt, an image or an option cannot be used.
            PlanError: The bundle cannot follow the method, budget or schedule.
            RunnerError: A graph failed.
        """
        guarded = guarded_options(self.bundle.manifest, options, question_of(prompt, messages))
        request = make_request(self.bundle.manifest, guarded)
        clock = Clock()
        read = self._read(clock, images=images, videos=videos, prompt=prompt, messages=messages)
        return drain(self._events(request, [read], clock), request.stream)[0]

    def stream(
        self,
        *,
        images: Any = None,
        videos: Any = None,
        prompt: str | None = None,
        messages: Messages | None = None,
        **options: Unpack[Options],
    ) -> Generator[str, None, Result]:
        """Answer one prompt piece by piece; see `generate`.

        Nothing is checked or run before the first piece is asked for.

        Yields:
            Pieces of the text, none empty; joined they are `Result.text`.

        Returns:
            The result, as the value of `yield from` or of `StopIteration`.
        """
        guarded = guarded_options(self.bundle.manifest, options, question_of(prompt, messages))
        request = make_request(self.bundle.manifest, guarded)
        clock = Clock()
        read = self._read(clock, images=images, videos=videos, prompt=prompt, messages=messages)
        results = yield from pieces(self._events(request, [read], clock), request.stream)
        return results[0]

    def generate_from_embeds(
        self,
        inputs_embeds: Array,
        *,
        prefix_length: int,
        num_visual: int,
        **options: Unpack[Options],
    ) -> Result | list[Result]:
        """Answer a prompt given as embeddings.

        Args:
            inputs_embeds: `[S, N]`, or `[B, S, N]` for a batch of equal layout; any float type.
            prefix_length: Tokens before the visual block.
            num_visual: Tokens of the visual block, 0 for none.
            options: See `Options`.

        Returns:
            A result for `[S, N]`, a list of them for `[B, S, N]`.

        Raises:
            InputError: The embeddings, the layout or an option cannot be used.
            PlanError: The bundle cannot follow the method, budget or schedule.
            RunnerError: A graph failed.
        """
        manifest = self.bundle.manifest
        request = make_request(manifest, options)
        clock = Clock()
        one = isinstance(inputs_embeds, np.ndarray) and inputs_embeds.ndim == 2
        embeds = inputs_embeds[None] if one else inputs_embeds
        read = prompt_from_embeds(self.chain, manifest, embeds, prefix_length, num_visual)
        request.check_rows(len(read.embeds))
        # Where the prompt decides how many tokens stay, rows are read one by one.
        reads = _rows(read) if request.pruning.waits_for_prompt else [read]
        results = drain(self._events(request, reads, clock), request.stream)
        return results[0] if one else results

    def generate_batch(
        self, prompts: Sequence[Mapping[str, Any]], **options: Unpack[Options]
    ) -> list[Result]:
        """Answer several prompts at once, of any lengths.

        Prompts whose parts are of equal length are read together, others one by one; all decode
        together. Answers are those of `generate`, up to the rounding of larger products.

        Args:
            prompts: The `images`, `videos`, `prompt` or `messages` of each, as for `generate`.
            options: See `Options`; the same for all.

        Raises:
            InputError: As `generate`, or no prompt at all.
            PlanError: As `generate`.
            RunnerError: As `generate`.
        """
        for each in prompts:  # a rule that one question meets holds for all
            question = question_of(each.get("prompt"), each.get("messages"))
            options = guarded_options(self.bundle.manifest, options, question)
        request = make_request(self.bundle.manifest, options)
        request.check_rows(len(prompts))
        clock = Clock()
        if not prompts:
            raise InputError("batch | got no prompt | expected one or more | give a list of them")
        read = [self._read(clock, **_parts(prompt)) for prompt in prompts]
        waits = request.pruning.waits_for_prompt
        groups = [[number] for number in range(len(read))] if waits else _alike(read)
        together = [self._together([read[number] for number in group]) for group in groups]
        results = drain(self._events(request, together, clock), None)
        numbers = [number for group in groups for number in group]
        by_number = dict(zip(numbers, results, strict=True))
        return [by_number[number] for number in range(len(prompts))]

    def close(self) -> None:
        """Free the graphs; a second call does nothing."""
        self.runner.close()

    def _read(
        self,
        clock: Clock,
        *,
        images: Any,
        videos: Any,
        prompt: str | None,
        messages: Messages | None,
    ) -> Prompt:
        """Turn text, images and videos into embeddings."""
        return prompt_from_text(
            self.chain,
            self.bundle.manifest,
            self.processor,
            clock,
            images=images,
            videos=videos,
            prompt=prompt,
            messages=messages,
        )

    def _together(self, alike: Sequence[Prompt]) -> Prompt:
        """Lay prompts of one layout into one batch."""
        embeds = joined([prompt.embeds for prompt in alike], 0, self.chain.empty)
        first = alike[0]
        return replace(first, embeds=embeds)

    def _events(
        self, request: Request, prompts: Sequence[Prompt], clock: Clock
    ) -> Generator[Event, None, list[Result]]:
        """Generate from prompts that were read."""
        return generate(
            self.chain,
            self.bundle.manifest,
            request,
            prompts,
            tokenizer=self.processor.tokenizer,
            stop_tokens=self.processor.stop_tokens,
            clock=clock,
        )


def _parts(prompt: Mapping[str, Any]) -> dict[str, Any]:
    """Read one prompt of a batch."""
    names = ("images", "videos", "prompt", "messages")
    unknown = sorted(set(prompt) - set(names))
    if unknown:
        raise InputError(
            f"batch | got {', '.join(unknown)} in a prompt | expected of: {', '.join(names)} | "
            "give options once, for all prompts"
        )
    return {name: prompt.get(name) for name in names}


def _rows(prompt: Prompt) -> list[Prompt]:
    """Take a batch apart."""
    count = len(prompt.embeds)
    return [
        Prompt(prompt.embeds[row : row + 1], prompt.layout, prompt.image_config)
        for row in range(count)
    ]


def _alike(prompts: Sequence[Prompt]) -> list[list[int]]:
    """Group the numbers of prompts that can be read as one batch."""
    groups: list[list[int]] = []
    for number, prompt in enumerate(prompts):
        for group in groups:
            first = prompts[group[0]]
            if prompt.places is not None or first.places is not None:
                continue  # pictures of other shapes have other positions
            if (first.layout, first.image_config) == (prompt.layout, prompt.image_config):
                group.append(number)
                break
        else:
            groups.append([number])
    return groups
