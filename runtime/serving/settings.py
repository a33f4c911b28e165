"""What an operator decides about a server, with the reason for each default."""

from __future__ import annotations

from dataclasses import dataclass, field

from sparsevlm_trt.runtime.errors import InputError

__all__ = ["ImageLimits", "Settings"]


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """What a picture of a request may cost before it is refused.

    Attributes:
        size_bytes: Of one encoded picture.
        num_pixels: Of one picture, read from its header before anything is decoded.
        per_request: Pictures of one request.
        hosts: Hosts that pictures may be fetched from over https; none by default.
        fetch_s: Seconds that fetching one may take in all.
    """

    size_bytes: int = 10_000_000
    num_pixels: int = 25_000_000
    per_request: int = 8
    hosts: frozenset[str] = frozenset()
    fetch_s: float = 5.0


@dataclass(frozen=True, slots=True)
class Settings:
    """How a server behaves.

    Attributes:
        model_name: What clients call the model.
        num_slots: Requests that decode together.
        num_waiting: Requests that may wait for a slot; one more is told to come back.
        timeout_s: Seconds from arrival to the last token, at most.
        max_new_tokens: Of one answer, at most.
        default_new_tokens: Of one answer whose request says nothing.
        body_bytes: Of one request, at most.
        target_ttft_s: Time to the first token that the controller holds by lowering the default
            budget; None: it stays as it is.
        floor: Lowest budget that the controller takes.
        whole: Whether requests that name no budget keep all visual tokens until the controller
            lowers it.
        log_content: Whether prompts and answers are logged.
        images: Limits of pictures.
    """

    model_name: str
    num_slots: int = 8
    num_waiting: int = 64
    timeout_s: float = 120.0
    max_new_tokens: int = 1024
    default_new_tokens: int = 256
    body_bytes: int = 32_000_000
    target_ttft_s: float | None = None
    floor: int = 64
    whole: bool = False
    log_content: bool = False
    images: ImageLimits = field(default_factory=ImageLimits)

    def __post_init__(self) -> None:
        """Refuse what no server can do.

        Raises:
            InputError: A number is out of range.
        """
        positive = {
            "num_slots": self.num_slots,
            "num_waiting": self.num_waiting,
            "timeout_s": self.timeout_s,
            "max_new_tokens": self.max_new_tokens,
            "default_new_tokens": self.default_new_tokens,
            "body_bytes": self.body_bytes,
            "floor": self.floor,
            "target_ttft_s": 1 if self.target_ttft_s is None else self.target_ttft_s,
        }
        wrong = [f"{name} {value}" for name, value in positive.items() if not value > 0]
        if self.default_new_tokens > self.max_new_tokens:
            wrong.append(f"default_new_tokens {self.default_new_tokens} above max_new_tokens")
        if wrong:
            raise InputError(
                f"settings | got {', '.join(wrong)} | expected numbers above 0 | change them"
            )
