from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import align
import alignment
import jinja2
import numpy as np
import pytest
import torch
from data import DigitSamples, make_scene
from lora import DeltaInfo, LoRALinear, add_lora, merge_delta, read_delta, save_delta
from packing import IGNORED, pack, prompt_text
from processor import CHAT_TEMPLATE, IMAGE_TOKEN, processor_files
from safetensors.torch import save_file
from scene_batches import SceneBatches
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from trainee import Trainee, evaluate
from transformers import Dinov2Config, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

NUM_VISUAL = 144
WORDS = ("What", "color", "digit", "is", "the", "red", "?", "7", "<|im_start|>", "<|im_end|>")


@pytest.fixture
def tokenizer() -> Tokenizer:
    vocabulary = {"[other]": 0, "[pad]": 1, "[a]": 2, "[b]": 3, IMAGE_TOKEN: 4}
    vocabulary |= {word: 5 + i for i, word in enumerate(WORDS)}
    built = Tokenizer(models.WordLevel(vocabulary, unk_token="[other]"))
    built.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    built.add_special_tokens(["<|im_start|>", "<|im_end|>", IMAGE_TOKEN])
    return built


def _model() -> LlavaForConditionalGeneration:
    torch.manual_seed(1)
    text = LlamaConfig(
        vocab_size=32,
        hidden_size=48,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=6,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    vision = Dinov2Config(
        hidden_size=384,
        num_hidden_layers=1,
        num_attention_heads=6,
        image_size=168,
        patch_size=14,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=4,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        image_seq_length=NUM_VISUAL,
        tie_word_embeddings=True,
    )
    return LlavaForConditionalGeneration(config).eval()


def _learnt(adapters: dict[str, LoRALinear]) -> None:
    """Move the adapters away from their start, where they do nothing."""
    for adapter in adapters.values():
        nn.init.normal_(adapter.up, std=0.3)


def test_adapters_start_as_the_base_layer() -> None:
    base = nn.Linear(6, 5)
    x = torch.randn(3, 6)
    assert torch.equal(LoRALinear(base, 2, 2.0)(x), base(x))


def test_a_merged_weight_does_what_the_adapter_does() -> None:
    layer = LoRALinear(nn.Linear(6, 5, bias=False), 2, 2.0)
    _learnt({"": layer})
    x = torch.randn(3, 6)
    torch.testing.assert_close(x @ layer.merged_weight().T, layer(x))


def test_a_merged_model_is_plain_and_does_what_the_adapted_one_did(tmp_path: Path) -> None:
    adapted, plain = _model(), _model()
    names = set(plain.state_dict())
    adapters = add_lora(adapted.model, 3, 2.0)
    _learnt(adapters)
    for parameter in adapted.parameters():  # the file holds bfloat16; so the comparison does too
        parameter.data = parameter.data.bfloat16().float()
    nn.init.normal_(adapted.model.multi_modal_projector.linear_1.bias)
    adapted.model.multi_modal_projector.bfloat16().float()
    file = tmp_path / "delta.safetensors"
    save_delta(
        file, adapted.model.multi_modal_projector, adapters, DeltaInfo(NUM_VISUAL, 3, 2.0, 10)
    )
    info, tensors = read_delta(file)
    assert info == DeltaInfo(NUM_VISUAL, 3, 2.0, 10)
    plain.load_state_dict({k: v.bfloat16().float() for k, v in plain.state_dict().items()})
    merge_delta(plain, info, tensors)
    assert set(plain.state_dict()) == names
    inputs = {
        "input_ids": torch.tensor([[5, *[4] * NUM_VISUAL, 6, 7]]),
        "pixel_values": torch.randn(1, 3, 168, 168),
    }
    with torch.no_grad():
        torch.testing.assert_close(plain(**inputs).logits, adapted(**inputs).logits)


def test_a_strange_file_is_refused(tmp_path: Path) -> None:
    save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="pass a file that"):
        read_delta(tmp_path / "x.safetensors")


def test_packed_questions_give_what_single_prompts_give(tokenizer: Tokenizer) -> None:
    trainee = Trainee(_model(), tokenizer, NUM_VISUAL, rank=2)
    trainee.model.float()
    _learnt(trainee.adapters)
    pairs = [("What color is the 7 ?", "red"), ("What digit is red ?", "7")]
    seen = torch.randn(1, NUM_VISUAL, 48)
    everything = [range(NUM_VISUAL)]
    with torch.no_grad():
        packed, targets = trainee.answer_logits(
            seen, pack([pairs], everything, NUM_VISUAL, tokenizer)
        )
        alone = [
            trainee.answer_logits(seen, pack([[pair]], everything, NUM_VISUAL, tokenizer))
            for pair in pairs
        ]
    torch.testing.assert_close(packed, torch.cat([logits for logits, _ in alone]))
    assert torch.equal(targets, torch.cat([wanted for _, wanted in alone]))


def test_a_single_packed_prompt_is_the_models_own_forward(tokenizer: Tokenizer) -> None:
    model = _model()
    prompt = prompt_text("What color is the 7 ? ", f" {IMAGE_TOKEN} " * NUM_VISUAL)
    ids = torch.tensor([tokenizer.encode(prompt).ids])
    pixels = torch.randn(1, 3, 168, 168)
    with torch.no_grad():
        expected = model(input_ids=ids, pixel_values=pixels).logits[:, -1]
        tower = model.model.vision_tower(pixels, output_hidden_states=True)
        trainee = Trainee(model, tokenizer, NUM_VISUAL, rank=2)
        trainee.model.float()
        batch = pack(
            [[("What color is the 7 ? ", "red")]], [range(NUM_VISUAL)], NUM_VISUAL, tokenizer
        )
        seen = trainee.projector(tower.hidden_states[-1][:, 1:])
        logits, _ = trainee.answer_logits(seen, batch)
    # The trainee keeps its projector in float32 but went through bfloat16 once.
    torch.testing.assert_close(logits[:1], expected, atol=0.02, rtol=0.05)


def test_tokens_left_out_keep_the_places_of_the_others(tokenizer: Tokenizer) -> None:
    batch = pack([[("What ?", "7")]], [[2, 5]], NUM_VISUAL, tokenizer)
    head = int((batch.input_ids[0] == 4).nonzero()[0])
    assert batch.position_ids[0, head : head + 3].tolist() == [head + 2, head + 5, head + 144]


def test_targets_are_the_answer_and_its_end(tokenizer: Tokenizer) -> None:
    batch = pack([[("What ?", "red 7"), ("What ?", "7")]], [[0]], NUM_VISUAL, tokenizer)
    wanted = [tokenizer.id_to_token(int(i)) for i in batch.targets[batch.targets != IGNORED]]
    # WordLevel does not split "7<|im_end|>" the way BPE does unless the token is special.
    assert wanted == ["red", "7", "<|im_end|>", "7", "<|im_end|>"]


def test_evaluation_counts_each_kind(tokenizer: Tokenizer, samples: DigitSamples) -> None:
    trainee = Trainee(_model(), tokenizer, NUM_VISUAL, rank=2)
    scenes = [make_scene(samples, 0, "heldout", index) for index in range(2)]
    tally = evaluate(trainee, scenes, [[0, 1, 2], [0]])
    assert {kind: asked for kind, (_, asked) in tally.items()} == {
        "digit": 2,
        "color": 1,
        "where": 1,
    }


@pytest.mark.parametrize("content", ["parts", "string"])
def test_the_training_prompt_is_what_the_chat_template_writes(content: str) -> None:
    question = "What digit is red?"
    parts = [{"type": "image"}, {"type": "text", "text": question}]
    message = {"role": "user", "content": parts if content == "parts" else IMAGE_TOKEN + question}
    template = jinja2.Environment(trim_blocks=True, lstrip_blocks=True).from_string(CHAT_TEMPLATE)
    written = template.render(messages=[message], add_generation_prompt=True)
    assert written == prompt_text(question, IMAGE_TOKEN)


def test_processor_files_agree_on_the_picture() -> None:
    for num_visual, side in ((576, 336), (144, 168)):
        files = processor_files(num_visual)
        image = json.loads(files["preprocessor_config.json"])
        assert image["crop_size"] == {"height": side, "width": side}
        patch = json.loads(files["processor_config.json"])["patch_size"]
        assert (side // patch) ** 2 == num_visual


@pytest.mark.parametrize("num_visual", [576, 144])
def test_the_committed_weights_fit_the_model(num_visual: int, example_folder: Path) -> None:
    file = example_folder / "weights" / f"digits-vlm-{num_visual}.safetensors"
    info, tensors = read_delta(file)
    assert info.num_visual == num_visual
    assert file.stat().st_size < 10_000_000  # both together, 20 MB
    assert sum(key.endswith(".down") for key in tensors) == 30 * 7 + 8 * 6
    shapes = SimpleNamespace(**{k.replace(".", "_"): tuple(v.shape) for k, v in tensors.items()})
    assert shapes.projector_linear_1_weight == (576, 384)
    assert shapes.projector_linear_2_weight == (576, 576)
    assert shapes.lora_language_model_layers_0_mlp_down_proj_down == (info.rank, 1536)
    assert all(tensor.isfinite().all() for tensor in tensors.values())


def test_alignment_teaches_tower_and_projector_at_both_resolutions(
    tokenizer: Tokenizer, samples: DigitSamples, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainees = [Trainee(_model(), tokenizer, NUM_VISUAL, rank=2) for _ in range(2)]
    words = alignment.WordVectors(*torch.randn(27, 48).split((10, 8, 9)))
    monkeypatch.setattr(alignment, "word_vectors", lambda *_: words)
    said: list[dict[str, object]] = []
    scenes = SceneBatches(samples, 0, "train", 0, 16, 2)
    align.align(trainees, scenes, scenes, 0, lambda **fields: said.append(fields))
    first, second = trainees
    assert first.projector is second.projector
    assert second.model.model.multi_modal_projector is first.projector
    towers = [trainee.parameters_of("vision_tower") for trainee in trainees]
    assert all(a is b for a, b in zip(*towers, strict=True))
    assert all(bool(up.abs().max() > 0) for up in towers[0][1::2])  # they start at zero
    assert [line["num_visual"] for line in said] == [NUM_VISUAL] * 2


def test_scene_batches_are_the_scenes_in_order(samples: DigitSamples) -> None:
    batches = list(SceneBatches(samples, 0, "train", 3, 5, 2).draw(0))
    assert [len(batch) for batch in batches] == [2, 2, 1]
    drawn = [scene for batch in batches for scene in batch]
    for index, scene in enumerate(drawn, start=3):
        assert np.array_equal(scene.pixels, make_scene(samples, 0, "train", index).pixels)
