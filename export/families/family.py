"""What a family tells the exporter about its models."""

from __future__ import annotations

from dataclasses import dataclass

from sparsevlm_trt.export.graph_module import GraphModule
from sparsevlm_trt.export.language_graphs import LanguageGraphs
from sparsevlm_trt.runtime.model_spec import VisionSpec

__all__ = ["Family"]


@dataclass(frozen=True, slots=True)
class Family:
    """A model taken apart.

    Attributes:
        model_type: Hugging Face model_type of the whole.
        language: The language model's graphs.
        vision: The vision graph (tower and projector); None for a bare language model.
        vision_spec: What the runtime must know of the vision tower; None likewise.
        video: The graph that frames of videos go through, where it is not `vision`.
        video_template: The chat template of conversations with a video, where it is another.
    """

    model_type: str
    language: LanguageGraphs
    vision: GraphModule | None = None
    vision_spec: VisionSpec | None = None
    video: GraphModule | None = None
    video_template: str | None = None
