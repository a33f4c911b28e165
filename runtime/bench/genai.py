"""OpenVINO GenAI in `sparsevlm bench`: its pipeline on a model that optimum-intel converted."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sparsevlm_trt.runtime.bench.machine import grown_bytes, resident_bytes
from sparsevlm_trt.runtime.errors import InputError
from sparsevlm_trt.runtime.image_loader import load_image

if TYPE_CHECKING:
    from sparsevlm_trt.runtime.bench.case import Case

__all__ = ["GenAiContender"]

_LANGUAGE_MODEL = "openvino_language_model.xml"


class GenAiContender:
    """The unpruned model in OpenVINO's own pipeline, picture and question as ours get them."""

    def __init__(self, folder: Path, image: Path, question: str, *, threads: int) -> None:
        """Open the pipeline on the CPU, in the type that OpenVINO picks.

        Args:
            folder: What `optimum-cli export openvino --task image-text-to-text` wrote.
            image: The picture.
            question: Asked behind it.
            threads: Processor threads.

        Raises:
            InputError: The package is missing, or the folder holds no such model.
        """
        try:
            import openvino
            import openvino_genai
        except ImportError as error:
            raise InputError(
                f"bench --genai | {error} | expected an importable openvino_genai | "
                "pip install openvino-genai"
            ) from error
        if not (folder / _LANGUAGE_MODEL).is_file():
            raise InputError(
                f"bench --genai {folder} | no {_LANGUAGE_MODEL} | expected a folder of "
                "optimum-intel's | optimum-cli export openvino --task image-text-to-text "
                f"--model CHECKPOINT {folder}"
            )
        before, started = resident_bytes(), time.perf_counter()
        settings = {"INFERENCE_NUM_THREADS": threads}
        try:
            self._pipeline: Any = openvino_genai.VLMPipeline(str(folder), "CPU", **settings)
        except RuntimeError as error:
            last = str(error).strip().splitlines()[-1:]
            raise InputError(
                f"bench --genai {folder} | {' '.join(last)} | expected a model that OpenVINO "
                "GenAI's VLMPipeline takes | leave --genai out"
            ) from error
        self.load_ms = (time.perf_counter() - started) * 1e3
        self.load_bytes = grown_bytes(before)
        self._picture = openvino.Tensor(np.asarray(load_image(image))[None])
        self._question = question

    def sample(self, case: Case, num_steps: int) -> dict[str, float]:
        """Answer once; what the pipeline does before its language model counts as vision."""
        del case  # the only one it is given
        config = self._pipeline.get_generation_config()
        config.max_new_tokens = num_steps + 1
        config.ignore_eos = True
        told = self._pipeline.generate(
            self._question, images=[self._picture], generation_config=config
        ).perf_metrics
        first_ms = float(told.get_ttft().mean)
        vision_ms = float(told.get_prepare_embeddings_duration().mean)
        decode_ms = float(told.get_tpot().mean)
        return {
            "first_token_ms": first_ms,
            "vision_ms": vision_ms,
            "language_ms": first_ms - vision_ms,
            "decode_ms": decode_ms,
            "tokens_per_s": 1e3 / decode_ms,
            "num_tokens": float(told.get_num_input_tokens()),
        }
