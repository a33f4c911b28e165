import pytest
import torch
from transformers import GPT2Config, LlamaConfig, MistralConfig

from sparsevlm_trt.export.decoder_config import DecoderConfig, rotary_frequencies
from sparsevlm_trt.runtime.errors import ExportError


def test_reads_a_llama():
    config = DecoderConfig.from_hf(
        LlamaConfig(
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            vocab_size=50,
            max_position_embeddings=128,
            rms_norm_eps=1e-3,
            attention_bias=True,
            tie_word_embeddings=True,
        )
    )
    assert config == DecoderConfig(
        model_type="llama",
        num_layers=3,
        hidden_size=64,
        intermediate_size=96,
        num_heads=4,
        num_kv_heads=2,
        head_dim=16,
        vocab_size=50,
        max_position=128,
        norm_eps=1e-3,
        activation="silu",
        qkv_bias=True,
        output_bias=True,
        head_norm=False,
        mlp_bias=False,
        tied_head=True,
    )


def test_heads_may_be_wider_than_their_share():
    config = LlamaConfig(hidden_size=64, num_attention_heads=4, head_dim=40)
    assert DecoderConfig.from_hf(config).head_dim == 40


def test_who_knows_better_overrides_the_tied_head():
    assert DecoderConfig.from_hf(LlamaConfig(tie_word_embeddings=False), tied_head=True).tied_head


@pytest.mark.parametrize(
    ("window", "longest", "expected"),
    [(None, 512, 512), (100, 512, 100), (4096, 512, 512)],
)
def test_a_sliding_window_bounds_the_positions(window, longest, expected):
    config = MistralConfig(sliding_window=window, max_position_embeddings=longest)
    assert DecoderConfig.from_hf(config).max_position == expected


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (GPT2Config(), "'gpt2' | expected one of llama, mistral"),
        (LlamaConfig(hidden_act="relu"), "'relu' | expected one of silu"),
        (
            LlamaConfig(
                rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
            ),
            "'dynamic' | expected one of default, linear, llama3, yarn",
        ),
        (
            LlamaConfig(
                hidden_size=64,
                num_attention_heads=4,
                rope_parameters={
                    "rope_type": "longrope",
                    "rope_theta": 1e4,
                    "short_factor": [1.0] * 8,
                    "long_factor": [2.0] * 8,
                    "original_max_position_embeddings": 64,
                    "factor": 2.0,
                },
            ),
            "'longrope'",
        ),
        (
            LlamaConfig(hidden_size=64, num_attention_heads=4, num_key_value_heads=3),
            "4 heads on 3 key heads",
        ),
    ],
    ids=["model type", "activation", "dynamic rotary", "long rotary", "heads"],
)
def test_refuses_what_our_layer_is_not(config, told):
    with pytest.raises(ExportError) as caught:
        DecoderConfig.from_hf(config)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_frequencies_of_the_default_type():
    config = LlamaConfig(hidden_size=64, num_attention_heads=4)  # D = 16, theta 1e4
    frequencies, scale = rotary_frequencies(config)
    expected = 10000.0 ** (-torch.arange(0, 16, 2) / 16)
    assert frequencies.dtype == torch.float32
    assert torch.allclose(frequencies, expected)
    assert scale == 1.0


def test_yarn_scales_the_angles_too():
    rope = {
        "rope_type": "yarn",
        "rope_theta": 1e4,
        "factor": 4.0,
        "original_max_position_embeddings": 128,
    }
    _, scale = rotary_frequencies(
        LlamaConfig(hidden_size=64, num_attention_heads=4, rope_parameters=rope)
    )
    assert scale > 1.0
