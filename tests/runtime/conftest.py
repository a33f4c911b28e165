"""A tiny model in numpy behind the Runner protocol: fast, exact, and it records every call."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import pytest

from sparsevlm_ops.schedule import num_candidates, num_merged
from sparsevlm_trt.runtime.graph_spec import StageSpec
from sparsevlm_trt.runtime.manifest import Manifest, PlanSpec
from sparsevlm_trt.runtime.model_spec import ModelSpec, VisionSpec

HIDDEN, HEADS, LAYERS, VOCAB, PATCHES = 8, 2, 6, 32, 12
IMAGE_TOKEN = 30


@dataclass(frozen=True)
class Call:
    """One run of a graph: the shapes that went in, and copies of the small integer inputs."""

    graph: str
    shapes: dict[str, tuple[int, ...]]
    integers: dict[str, np.ndarray]


class NumpyRunner:
    """Layers that average what they may see: every position and cache entry counts."""

    name = "numpy"
    device = "cpu"

    def __init__(self, manifest: Manifest, kv_heads: int = 1) -> None:
        rng = np.random.default_rng(0)
        self.table = rng.normal(size=(VOCAB, HIDDEN)).astype(manifest.model.dtype)
        self.mix = rng.normal(size=(LAYERS, HIDDEN, HIDDEN)).astype(np.float32) * 0.3
        self.stages = {stage.graph: stage for stage in manifest.stages}
        self.last = manifest.stages[-1].graph
        self.calls: list[Call] = []
        self.dtype = np.dtype(manifest.model.dtype)
        self.closed = False

    def load(self, bundle: object, graphs: object) -> None:
        pass

    def close(self) -> None:
        self.closed = True

    def __enter__(self) -> NumpyRunner:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def empty(self, shape, dtype, /):
        return np.empty(shape, dtype)

    def run(self, graph, inputs, into=None):
        integers = {k: v.copy() for k, v in inputs.items() if v.dtype.kind == "i"}
        self.calls.append(Call(graph, {k: v.shape for k, v in inputs.items()}, integers))
        many = graph in self.stages or graph.startswith("prune_")
        kind = graph.partition("_")[0] if many else graph
        outputs = getattr(self, f"_{kind}")(graph, inputs)
        for name, place in (into or {}).items():
            assert place.flags.c_contiguous
            assert (place.shape, place.dtype) == (outputs[name].shape, outputs[name].dtype), name
            place[...] = outputs[name]
            outputs[name] = place
        return outputs

    def _vision(self, _, inputs):
        pixels = inputs["pixel_values"]
        features = pixels.reshape(len(pixels), PATCHES, -1)[..., :HIDDEN]
        return {"image_features": features.astype(self.dtype)}

    def _embed(self, _, inputs):
        return {"inputs_embeds": self.table[inputs["input_ids"]]}

    def _raters(self, _, inputs):
        visual, text = (inputs[name].astype(np.float32) for name in inputs)
        scores = np.einsum("bvn,btn->bvt", visual, text)
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        scores = (scores / scores.sum(axis=-1, keepdims=True)).mean(axis=1)
        mask = scores > scores.mean(axis=-1, keepdims=True)
        mask |= ~mask.any(axis=-1, keepdims=True)
        return {"rater_scores": scores, "rater_mask": mask}

    def _stage(self, graph, inputs):
        hidden = inputs["hidden_states"].astype(np.float32)
        positions = inputs["position_ids"][..., None]
        stage, out = self.stages[graph], {}
        for layer in range(stage.first, stage.stop):
            new = (hidden + np.sin(positions * 0.1 + layer)).astype(self.dtype)
            past = inputs[f"past_key_values.{layer}.key"]
            valid = np.arange(past.shape[1]) < inputs["past_lengths"][:, None]  # [B, L]
            assert valid.sum(axis=1).tolist() == inputs["past_lengths"].tolist()
            other = inputs[f"past_key_values.{layer}.value"]
            assert np.array_equal(past[valid], other[valid])
            out[f"new_key_values.{layer}.key"] = out[f"new_key_values.{layer}.value"] = new
            seen = np.concatenate([past, new], axis=1).astype(np.float32)  # [B, L+S, N]
            rows, columns = hidden.shape[1], seen.shape[1]
            queries = hidden + positions * 0.01
            logits = queries @ seen.transpose(0, 2, 1)
            causal = np.arange(columns) <= np.arange(rows)[:, None] + columns - rows
            ahead = np.ones((len(hidden), rows), bool)
            known = np.concatenate([valid, ahead], axis=1)[:, None]  # [B, 1, L+S]
            logits = np.where(causal & known, logits, -np.inf)
            weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
            weights /= weights.sum(axis=-1, keepdims=True)
            hidden = np.tanh(hidden + weights @ seen @ self.mix[layer])
        out["last_hidden_state"] = hidden.astype(self.dtype)
        if graph != self.last:
            out["queries"] = np.tile(queries, HEADS).astype(self.dtype)
            out["keys"] = new
        return out

    def _rater_rows(self, _, inputs):
        queries, keys = (inputs[name].astype(np.float32) for name in ("queries", "keys"))
        raters, visual = inputs["rater_index"], inputs["visual_index"]
        assert raters.size
        assert visual.size
        rows = np.take_along_axis(queries[..., :HIDDEN], raters[..., None], axis=1)
        logits = rows @ keys.transpose(0, 2, 1)  # [B, R, S]
        logits = np.where(np.arange(keys.shape[1]) <= raters[..., None], logits, -np.inf)
        weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        attention = np.take_along_axis(weights, visual[:, None], axis=2)
        return {"rater_attention": np.repeat(attention[:, None], HEADS, axis=1)}

    def _prune(self, graph, inputs):
        hidden, attention = inputs["hidden_states"], inputs["rater_attention"]
        weights = inputs["rater_weights"][:, None, :, None]
        scores = (attention * weights).sum(axis=2).mean(axis=1) / weights.sum(axis=2).mean(axis=1)
        prefix, keep = int(inputs["prefix_length"][0]), int(inputs["num_kept"][0])
        num_visual = scores.shape[1]
        assert (graph != "prune_sparsevlm-adaptive") <= keep < num_visual
        original = bool(inputs["original_positions"][0])
        if graph == "prune_uniform":
            assert not original
            return self._pool(inputs, scores.astype(np.float32), prefix, keep)
        order = np.argsort(-scores, axis=1, kind="stable")
        kept = np.sort(order[:, :keep], axis=1)
        recycles = graph in ("prune_sparsevlm", "prune_sparsevlm-adaptive")
        count = num_candidates(num_visual - keep) if recycles else 0
        candidates = order[:, keep : keep + count]
        rows = []
        for row, states in enumerate(hidden):
            visual = states[prefix : prefix + num_visual]
            merged = np.array_split(visual[candidates[row]], num_merged(count))
            means = [group.mean(axis=0, keepdims=True) for group in merged if recycles]
            suffix = states[prefix + num_visual :]
            rows.append(np.concatenate([states[:prefix], visual[kept[row]], *means, suffix]))
        after = np.stack(rows)
        positions = inputs["position_ids"][:, : after.shape[1]].copy()
        if original:
            assert not recycles
            old = inputs["position_ids"]
            positions[:, prefix : prefix + keep] = np.take_along_axis(old, prefix + kept, axis=1)
            positions[:, prefix + keep :] = inputs["position_ids"][:, prefix + num_visual :]
        return {
            "next_hidden_states": after.astype(self.dtype),
            "next_position_ids": positions,
            "visual_scores": scores.astype(np.float32),
            "kept_index": kept,
            "merge_candidates": candidates,
        }

    def _pool(self, inputs, cells, prefix, keep):
        end = prefix + cells.shape[1]
        rows = []
        for states, numbers in zip(inputs["hidden_states"], cells, strict=True):
            visual = states[prefix:end]
            means = [visual[numbers == n].mean(axis=0, keepdims=True) for n in range(keep)]
            rows.append(np.concatenate([states[:prefix], *means, states[end:]]))
        after = np.stack(rows)
        return {
            "next_hidden_states": after.astype(self.dtype),
            "next_position_ids": inputs["position_ids"][:, : after.shape[1]].copy(),
            "visual_scores": cells,
            "kept_index": np.empty((len(after), 0), np.int64),
            "merge_candidates": np.tile(np.arange(cells.shape[1]), (len(after), 1)),
        }

    def _rank(self, _, inputs):
        rows = inputs["rater_attention"].mean(axis=1) * inputs["rater_weights"][:, :, None]
        return {"rank": np.linalg.matrix_rank(rows)}

    def _gravity(self, _, inputs):
        places = inputs["rater_positions"][:, :, None] - inputs["visual_positions"][:, None]
        assert (places > 0).all()
        weights = inputs["rater_weights"][:, None, :, None]
        rows = (inputs["rater_attention"] * weights * places[:, None]).sum(axis=2)
        rows = rows[:, : int(inputs["num_heads"][0])].mean(axis=1)
        return {"corrected_attention": rows[:, None, None].astype(np.float32)}

    def _head(self, _, inputs):
        return {
            "logits": inputs["hidden_states"].astype(np.float32) @ self.table.T * np.float32(1)
        }


def make_manifest(
    boundaries: tuple[int, ...] = (1, 3), dtype: str = "float32", vision: bool = True
) -> Manifest:
    """A model of six layers cut after `boundaries`."""
    cuts = (0, *(layer + 1 for layer in boundaries), LAYERS)
    schedule = dict(zip(boundaries, (7, 4, 2), strict=False))
    return Manifest(
        model=ModelSpec(
            source="numpy",
            model_type="llava",
            text_model_type="llama",
            weights_sha256="0" * 64,
            dtype=dtype,
            num_layers=LAYERS,
            hidden_size=HIDDEN,
            intermediate_size=HIDDEN,
            num_heads=HEADS,
            num_kv_heads=1,
            head_dim=HIDDEN,
            vocab_size=VOCAB,
            max_position=64,
            tied_head=True,
        ),
        vision=VisionSpec(
            num_visual=PATCHES,
            grid=(3, 4),
            image_size=(6, 8),
            image_token_id=IMAGE_TOKEN,
            hidden_size=HIDDEN,
            intermediate_size=HIDDEN,
            num_layers=1,
            num_positions=PATCHES,
        )
        if vision
        else None,
        plan=PlanSpec(
            method="sparsevlm" if boundaries else "none",
            methods=("sparsevlm", "fastv", "random", "uniform", "none"),
            boundaries=boundaries,
            budget=None,
            schedule=schedule,
            source="test",
        ),
        stages=tuple(
            StageSpec(f"stage_{i}", first, stop)
            for i, (first, stop) in enumerate(itertools.pairwise(cuts))
        ),
        graphs={},
        links=(),
        files={},
        tools={},
    )


@pytest.fixture
def manifest() -> Manifest:
    return make_manifest()


@pytest.fixture
def runner(manifest: Manifest) -> NumpyRunner:
    return NumpyRunner(manifest)


@pytest.fixture(scope="session")
def make_model():
    """Manifest and runner of a model cut elsewhere: `make_model(boundaries, dtype)`."""

    def make(*args, **options):
        made = make_manifest(*args, **options)
        return made, NumpyRunner(made)

    return make
