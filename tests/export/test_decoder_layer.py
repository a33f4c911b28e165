"""Our decoder layer and stage against transformers' own, eager, float32."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    DynamicCache,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    Qwen2Config,
    Qwen3Config,
)
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRotaryEmbedding
from transformers.models.mistral.modeling_mistral import (
    MistralDecoderLayer,
    MistralRotaryEmbedding,
)
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer
from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLTextConfig
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLRotaryEmbedding
from transformers.models.qwen3.modeling_qwen3 import Qwen3DecoderLayer
from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLTextConfig
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextRotaryEmbedding

from sparsevlm_trt.export.decision_modules import RaterRows
from sparsevlm_trt.export.decoder_config import DecoderConfig, rotary_frequencies
from sparsevlm_trt.export.decoder_layer import DecoderLayer, Projection
from sparsevlm_trt.export.stage import Stage, causal_mask

TOLERANCE = 1e-5  # float32, outputs of order 1
BATCH, PAST, NEW = 2, 23, 7

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 50,
    "max_position_embeddings": 512,
    "attn_implementation": "eager",
}


def rope(kind: str, **more: float) -> dict[str, object]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10000.0, **more}}


CONFIGS: dict[str, PretrainedConfig] = {
    "llama": LlamaConfig(**SIZES),
    "llama-mha": LlamaConfig(**SIZES | {"num_key_value_heads": 4}),
    "llama-one-kv-head": LlamaConfig(**SIZES | {"num_key_value_heads": 1}),
    "llama-biases": LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True),
    "llama-wide-heads": LlamaConfig(**SIZES, head_dim=40),
    "llama-gelu": LlamaConfig(**SIZES, hidden_act="gelu"),
    "llama-gelu-tanh": LlamaConfig(**SIZES, hidden_act="gelu_pytorch_tanh"),
    "llama-eps": LlamaConfig(**SIZES, rms_norm_eps=0.1),
    "llama-theta": LlamaConfig(**SIZES, **rope("default") | {"rope_theta": 5e5}),
    "llama-linear": LlamaConfig(**SIZES, **rope("linear", factor=4.0)),
    "llama-llama3": LlamaConfig(
        **SIZES,
        **rope(
            "llama3",
            factor=8.0,
            low_freq_factor=1.0,
            high_freq_factor=4.0,
            original_max_position_embeddings=64,
        ),
    ),
    "llama-yarn": LlamaConfig(
        **SIZES, **rope("yarn", factor=4.0, original_max_position_embeddings=128)
    ),
    "mistral": MistralConfig(**SIZES),
    "mistral-wide-heads": MistralConfig(**SIZES, head_dim=40),
    "mistral-window": MistralConfig(**SIZES, sliding_window=PAST + NEW),
    "qwen2": Qwen2Config(**SIZES),
    "qwen3": Qwen3Config(**SIZES, head_dim=32),
}
LAYERS = {
    "llama": LlamaDecoderLayer,
    "mistral": MistralDecoderLayer,
    "qwen2": Qwen2DecoderLayer,
    "qwen3": Qwen3DecoderLayer,
}


def theirs(config: PretrainedConfig, layer: int) -> nn.Module:
    module = LAYERS[config.model_type](config, layer).eval()
    for name, parameter in module.named_parameters():
        # Norms and biases start as ones and zeros, which would hide a mistake.
        scale = 0.5 / parameter.shape[-1] ** 0.5 if parameter.dim() > 1 else 0.5
        shift = 1.0 if "norm" in name else 0.0
        parameter.data.normal_(shift, scale)
    return module


def take_weights(ours: nn.Module, stored: dict[str, Tensor]) -> None:
    """Fill parameters from the meta device, as the exporter does."""
    weights = dict(stored)
    for name, module in ours.named_modules():
        if not isinstance(module, Projection):
            continue
        parent, _, own = name.rpartition(".")
        for kind in ["weight"] + ["bias"] * (module.bias is not None):
            parts = [f"{parent}.{part}.{kind}" for part in module.parts or (own,)]
            whole = torch.cat([weights.pop(part) for part in parts])
            weights[f"{name}.{kind}"] = whole.t().contiguous() if kind == "weight" else whole
    ours.load_state_dict(weights, assign=True)


def rotary_of(config: PretrainedConfig, positions: Tensor) -> tuple[Tensor, Tensor]:
    kind = MistralRotaryEmbedding if config.model_type == "mistral" else LlamaRotaryEmbedding
    cos, sin = kind(config)(torch.empty(0), positions)
    return cos, sin


def cached(cache: DynamicCache, layer: int) -> list[Tensor]:
    """Key and value of a layer as our stages hold them, `[B, L, G*D]`."""
    entry = cache.layers[layer]
    return [part.transpose(1, 2).flatten(2) for part in (entry.keys, entry.values)]


def run_theirs(
    layer: nn.Module, config: PretrainedConfig, hidden: Tensor, start: int, cache: DynamicCache
) -> Tensor:
    positions = torch.arange(start, start + hidden.shape[1]).expand(hidden.shape[0], -1)
    mask = torch.full((hidden.shape[1], start + hidden.shape[1]), torch.finfo(torch.float32).min)
    mask = mask.triu(start + 1)[None, None].expand(hidden.shape[0], 1, -1, -1)
    out = layer(
        hidden,
        attention_mask=mask,
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
        position_embeddings=rotary_of(config, positions),
    )
    return out[0] if isinstance(out, tuple) else out


def differs(ours: Tensor, other: Tensor) -> float:
    assert ours.shape == other.shape
    return float((ours - other).abs().max())


@pytest.fixture(params=sorted(CONFIGS))
def config(request: pytest.FixtureRequest) -> PretrainedConfig:
    torch.manual_seed(7)
    return CONFIGS[request.param]


@torch.no_grad()
def test_layer_equals_transformers(config):
    shape = DecoderConfig.from_hf(config)
    layer, ours = theirs(config, 0), DecoderLayer(shape, torch.float32)
    take_weights(ours, dict(layer.named_parameters()))
    frequencies, scale = rotary_frequencies(config)
    cache = DynamicCache()  # without the config: a window's cache would drop entries
    kv_size = shape.num_kv_heads * shape.head_dim
    past = [torch.empty(BATCH, 0, kv_size)] * 2
    for start, count in ((0, PAST), (PAST, NEW), (PAST + NEW, 1)):
        if config.model_type == "mistral" and start + count > (config.sliding_window or 512):
            break  # from here on a window hides the oldest entries; max_position ends before
        hidden = torch.randn(BATCH, count, config.hidden_size)
        angles = torch.arange(start, start + count)[None, :, None] * frequencies
        angles = angles.expand(BATCH, -1, -1)
        mask = causal_mask(count, start, torch.full((BATCH,), start), torch.float32)
        out, key, value, _ = ours(hidden, (angles.cos() * scale, angles.sin() * scale), mask, past)
        assert differs(out, run_theirs(layer, config, hidden, start, cache)) <= TOLERANCE
        now = cached(cache, 0)
        past = [
            torch.cat([before, new], 1) for before, new in zip(past, (key, value), strict=True)
        ]
        assert max(differs(*pair) for pair in zip(past, now, strict=True)) <= TOLERANCE


@torch.no_grad()
def test_stage_equals_a_run_of_transformers_layers(config):
    shape = DecoderConfig.from_hf(config)
    numbers = range(1, 3)
    stage = Stage(shape, numbers, rotary_frequencies(config), torch.float32, shows=True)
    layers = {i: theirs(config, i) for i in numbers}
    stored = {
        f"layers.{i}.{name}": value
        for i, layer in layers.items()
        for name, value in layer.named_parameters()
    }
    take_weights(stage, stored)
    cache = DynamicCache()
    whole = torch.randn(BATCH, PAST + NEW, config.hidden_size)
    hidden = whole[:, :PAST]
    for i in numbers:
        hidden = run_theirs(layers[i], config, hidden, 0, cache)
    past = [part for i in numbers for part in cached(cache, i)]
    hidden = whole[:, PAST:]
    last_input = hidden
    for i in numbers:
        last_input, hidden = hidden, run_theirs(layers[i], config, hidden, PAST, cache)
    ours, queries, keys, *new = stage(
        whole[:, PAST:],
        torch.arange(PAST, PAST + NEW).expand(BATCH, -1),
        torch.full((BATCH,), PAST),
        past,
    )
    assert differs(ours, hidden) <= TOLERANCE
    for i, part in enumerate(part for n in numbers for part in cached(cache, n)):
        assert differs(new[i], part[:, PAST:]) <= TOLERANCE
    # The last layer again, for its attention map; its cache ends before the new tokens.
    cache.crop(-NEW)
    probabilities = attention_map(layers[2], config, last_input, cache)
    assert torch.equal(keys, new[2])
    asked = split_heads(queries, config.num_attention_heads)
    held = split_heads(torch.cat([past[2], keys], dim=1), config.num_key_value_heads)
    assert differs(causal_attention(asked, held), probabilities) <= TOLERANCE


def split_heads(flat: Tensor, num_heads: int) -> Tensor:
    """`[B, S, H*D]` to `[B, H, S, D]`."""
    return flat.reshape(*flat.shape[:2], num_heads, -1).transpose(1, 2)


def causal_attention(queries: Tensor, keys: Tensor) -> Tensor:
    """Probabilities of `[B, H, S, D]` over `[B, G, L+S, D]`, written out."""
    repeated = keys.repeat_interleave(queries.shape[1] // keys.shape[1], dim=1)
    products = queries @ repeated.transpose(2, 3) * queries.shape[-1] ** -0.5
    ahead = torch.ones(products.shape[2:], dtype=torch.bool)
    ahead = ahead.triu(products.shape[3] - products.shape[2] + 1)
    return torch.softmax(products.masked_fill(ahead, -torch.inf), dim=-1)


def test_the_raters_rows_are_those_of_the_whole_attention():
    generator = torch.Generator().manual_seed(5)
    heads, kv_heads, size, length = 4, 2, 6, 12
    queries = torch.randn(BATCH, length, heads * size, generator=generator)
    keys = torch.randn(BATCH, length, kv_heads * size, generator=generator)
    rater_index = torch.tensor([[9, 11, 10], [11, 8, 8]])
    visual_index = torch.arange(2, 8).expand(BATCH, -1)
    rows = RaterRows(heads, kv_heads)(queries, keys, rater_index, visual_index)
    whole = causal_attention(split_heads(queries, heads), split_heads(keys, kv_heads))
    for row in range(BATCH):
        seen = whole[row][:, rater_index[row]][:, :, visual_index[row]]
        assert differs(rows[row], seen) <= 1e-6


def attention_map(
    layer: nn.Module, config: PretrainedConfig, hidden: Tensor, cache: DynamicCache
) -> Tensor:
    """Probabilities `[B, H, S, L+S]` of transformers' own eager attention."""
    seen: list[Tensor] = []
    handle = layer.self_attn.register_forward_hook(lambda _m, _i, out: seen.append(out[1]))
    run_theirs(layer, config, hidden, PAST, cache)
    handle.remove()
    return seen[0]


@torch.no_grad()
def test_rows_see_only_the_valid_part_of_a_padded_cache():
    torch.manual_seed(8)
    config = CONFIGS["llama"]
    shape = DecoderConfig.from_hf(config)
    stage = Stage(shape, range(1), rotary_frequencies(config), torch.float32, shows=False)
    layer = theirs(config, 0)
    take_weights(stage, {f"layers.0.{n}": p for n, p in layer.named_parameters()})
    lengths, new = [5, PAST, 0], 2
    kv_size = shape.num_kv_heads * shape.head_dim
    past = [torch.randn(3, PAST, kv_size) for _ in range(2)]
    hidden = torch.randn(3, new, 64)
    positions = torch.tensor(lengths)[:, None] + torch.arange(new)
    together = stage(hidden, positions, torch.tensor(lengths), past)
    garbled = [part.clone() for part in past]
    for row, length in enumerate(lengths):
        alone = stage(
            hidden[row : row + 1],
            positions[row : row + 1],
            torch.tensor([length]),
            [part[row : row + 1, :length] for part in past],
        )
        for ours, theirs_ in zip(together, alone, strict=True):
            assert differs(ours[row : row + 1], theirs_) <= TOLERANCE
        for part in garbled:
            part[row, length:] = 1e4
    again = stage(hidden, positions, torch.tensor(lengths), garbled)
    assert all(torch.equal(a, b) for a, b in zip(together, again, strict=True))


def test_mask_spells_cache_and_causality():
    mask = causal_mask(3, 2, torch.tensor([2, 1]), torch.float32)
    assert mask.shape == (2, 1, 3, 5)
    assert mask.dtype == torch.float32
    seen = (mask == 0).int()[:, 0].tolist()
    assert seen[0] == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]
    assert seen[1] == [[1, 0, 1, 0, 0], [1, 0, 1, 1, 0], [1, 0, 1, 1, 1]]
    assert causal_mask(1, 0, torch.tensor([0]), torch.float16).dtype == torch.float16
    assert bool(torch.isfinite(causal_mask(4, 4, torch.tensor([0]), torch.float16)).all())


@pytest.mark.parametrize(
    ("kind", "head_dim", "section"),
    [
        (Qwen2VLTextConfig, 16, {"mrope_section": [2, 3, 3]}),
        (Qwen3VLTextConfig, 16, {"mrope_section": [2, 3, 3]}),
        (Qwen3VLTextConfig, 128, {}),
    ],
)
def test_three_positions_turn_the_frequencies_that_transformers_lets_them(kind, head_dim, section):
    config = kind(**SIZES, head_dim=head_dim, **rope("default", **section))
    shape = DecoderConfig.from_hf(config, tied_head=False)
    assert shape.num_axes == 3
    stage = Stage(shape, range(1), rotary_frequencies(config), torch.float32, shows=False)
    positions = torch.randint(0, 40, (BATCH, NEW, 3))
    ours = stage._rotary(positions)
    rotary = {
        Qwen2VLTextConfig: Qwen2VLRotaryEmbedding,
        Qwen3VLTextConfig: Qwen3VLTextRotaryEmbedding,
    }
    theirs_ = rotary[kind](config)(torch.empty(0), positions.permute(2, 0, 1))
    for one, other in zip(ours, theirs_, strict=True):
        assert differs(one, other[..., : one.shape[-1]]) <= TOLERANCE
