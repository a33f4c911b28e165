"""What a caller may ask for, checked against what a bundle can do."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

from sparsevlm_ops.methods import Positions
from sparsevlm_trt.runtime.boundary import Pruning
from sparsevlm_trt.runtime.budget_plan import Budget
from sparsevlm_trt.runtime.errors import InputError
from sparsevlm_trt.runtime.guard import GuardLike
from sparsevlm_trt.runtime.manifest import Manifest
from sparsevlm_trt.runtime.pruning_plan import ScheduleLike, plan_pruning
from sparsevlm_trt.runtime.sampling import Sampler
from sparsevlm_trt.runtime.stops import StopMatcher

__all__ = ["Options", "Request", "make_request"]


class Options(TypedDict, total=False):
    """The options of `Session.generate` and its siblings.

    Attributes:
        method: Pruning method; the bundle's by default.
        method_seed: Of a method that draws its tokens, 0 by default.
        positions: "compact": survivors are renumbered without gaps; "original": they keep their
            position ids. The method's own way by default.
        scale: Of method `sparsevlm-adaptive`: tokens kept for each rank, 13.5 by default.
        bias: Of the same: tokens kept beyond these, 0 by default.
        num_heads: Of method `sparsevlm+`: heads that score, 14 by default, or their share if it
            is a fraction.
        guard: What stays in any case: "entropy", "entropy:0.5", "PATTERN=BUDGET", several of
            them, or `{pattern: budget}`; see `sparsevlm_trt.runtime.guard`.
        budget: Nominal average of visual tokens in a layer, such as 192, or a fraction of the
            prompt's, such as 0.33.
        schedule: Tokens kept after each pruning layer, e.g. "2:300,6:200,15:110"; in place of
            a budget.
        max_new_tokens: Tokens to make at most, 64 by default.
        temperature: 0 (the default) takes the likeliest token.
        top_k: Draw among that many likeliest tokens; 0: all.
        top_p: Draw among the likeliest tokens that have this probability together.
        seed: Makes draws repeatable.
        stop: Texts that end the answer; they are not part of it.
        stop_tokens: Tokens that end the answer; the model's own by default, () for none.
        stream: Called with each piece of text and its token, as they come.
        keep_logits: Whether the result holds the logits of every decode step.
        replay: Visual scores of each boundary, `[V]`, in place of the raters' attention.
    """

    method: str | None
    method_seed: int
    positions: Positions | None
    scale: float | None
    bias: float | None
    num_heads: int | float | None
    guard: GuardLike | None
    budget: Budget | None
    schedule: ScheduleLike | None
    max_new_tokens: int
    temperature: float
    top_k: int
    top_p: float
    seed: int | None
    stop: str | Sequence[str]
    stop_tokens: Iterable[int] | None
    stream: Callable[[str, int], None] | None
    keep_logits: bool
    replay: Sequence[Any] | None


@dataclass(frozen=True, slots=True)
class Request:
    """Checked options; see `Options`."""

    pruning: Pruning
    max_new_tokens: int = 64
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_tokens: frozenset[int] | None = None
    stream: Callable[[str, int], None] | None = None
    keep_logits: bool = True

    def sampler(self) -> Sampler:
        """Make the sampler of one sequence, at the start of its random stream."""
        return Sampler(self.temperature, self.top_k, self.top_p, self.seed)

    def check_rows(self, rows: int) -> None:
        """Refuse to stream several answers through one function: it could not tell them apart.

        Raises:
            InputError: The request streams, and there are several rows.
        """
        if self.stream is not None and rows != 1:
            raise InputError(
                f"stream | got a batch of {rows} | expected one prompt | leave stream out, or "
                "call generate for each"
            )


def make_request(manifest: Manifest, options: Options) -> Request:
    """Check a caller's options.

    Raises:
        InputError: An option is unknown, or its value cannot be used.
        PlanError: The bundle cannot follow the method, budget or schedule.
    """
    given: dict[str, Any] = dict(options)
    unknown = sorted(set(given) - set(Options.__annotations__))
    if unknown:
        raise InputError(
            f"options | got {', '.join(unknown)} | expected of: "
            f"{', '.join(Options.__annotations__)} | leave the unknown out"
        )
    pruning = plan_pruning(
        manifest,
        method=given.pop("method", None),
        budget=given.pop("budget", None),
        schedule=given.pop("schedule", None),
        replay=given.pop("replay", None),
        method_seed=given.pop("method_seed", 0),
        positions=given.pop("positions", None),
        scale=given.pop("scale", None),
        bias=given.pop("bias", None),
        num_heads=given.pop("num_heads", None),
        guard=given.pop("guard", None),
    )
    request = Request(
        pruning,
        stop=StopMatcher.of(given.pop("stop", ())).stops,
        stop_tokens=_stop_tokens(given.pop("stop_tokens", None)),
        **given,
    )
    request.sampler()  # checks the four options of sampling
    if not isinstance(request.max_new_tokens, int) or request.max_new_tokens < 1:
        raise InputError(
            f"max_new_tokens | got {request.max_new_tokens!r} | expected a whole number, 1 or "
            "more | change it"
        )
    if request.stream is not None and not callable(request.stream):
        raise InputError(
            f"stream | got {request.stream!r} | expected a function of a text and a token | "
            "leave it out, or use Session.stream"
        )
    return request


def _stop_tokens(tokens: Iterable[int] | None) -> frozenset[int] | None:
    """Read token numbers; None: the model's own."""
    try:
        return None if tokens is None else frozenset(operator.index(token) for token in tokens)
    except TypeError as error:
        raise InputError(
            f"stop_tokens | {error} | expected token numbers | use stop= for texts"
        ) from error
