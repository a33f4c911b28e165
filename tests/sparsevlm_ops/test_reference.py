import pytest
import torch

from sparsevlm_ops.reference import pruned_generate
from sparsevlm_ops.schedule import Schedule

transformers = pytest.importorskip("transformers")

P, V, T = 4, 30, 6
SCHEDULE = Schedule.of({1: 12, 2: 5})


def tiny_llama(attention="eager"):
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.3,
        attn_implementation=attention,
    )
    return transformers.LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def model():
    return tiny_llama()


@pytest.fixture(scope="module")
def embeds():
    return torch.randn(1, P + V + T, 32, generator=torch.Generator().manual_seed(1))


def test_method_none_is_the_unpruned_model(model, embeds):
    ours = pruned_generate(model, embeds, P, V, None, method="none", max_new_tokens=5)
    tokens = model.generate(
        inputs_embeds=embeds, max_new_tokens=5, do_sample=False, eos_token_id=None
    )
    logits = model(inputs_embeds=embeds).logits[0, -1]
    assert ours.tokens == tokens[0].tolist()
    torch.testing.assert_close(ours.prefill_logits, logits)
    assert ours.stages == []
    assert ours.kv_lengths == [P + V + T] * 4


def test_a_text_only_prompt_is_the_unpruned_model(model, embeds):
    text = embeds[:, :10]
    pruned = pruned_generate(model, text, 4, 0, SCHEDULE, max_new_tokens=3)
    dense = pruned_generate(model, text, 4, 0, None, method="none", max_new_tokens=3)
    assert pruned.tokens == dense.tokens
    assert torch.equal(pruned.step_logits, dense.step_logits)
    assert pruned.stages == []


def test_one_visual_token_is_left_alone(model, embeds):
    assert pruned_generate(model, embeds, P, 1, SCHEDULE).stages == []


def test_lengths_and_positions_follow_the_boundaries(model, embeds):
    result = pruned_generate(model, embeds, P, V, SCHEDULE, max_new_tokens=3)
    first, second = result.stages
    assert (first.num_visual_in, first.num_visual_out) == (30, 12 + 1)
    assert (second.num_visual_in, second.num_visual_out) == (13, 5 + 1)
    assert result.kv_lengths == [40, 40, 23, 16]
    assert result.decode_positions.tolist() == [[40, 40, 23, 16], [41, 41, 24, 17]]
    assert first.position_ids.tolist() == list(range(23))
    assert result.step_logits.shape == (2, 64)


def test_replayed_scores_and_kept_index_repeat_the_run(model, embeds):
    own = pruned_generate(model, embeds, P, V, SCHEDULE, max_new_tokens=3)
    for replay in ([s.scores for s in own.stages], [s.kept for s in own.stages]):
        again = pruned_generate(model, embeds, P, V, SCHEDULE, max_new_tokens=3, replay=replay)
        assert torch.equal(again.step_logits, own.step_logits)


def test_a_replay_decides_in_place_of_the_raters(model, embeds):
    kept = torch.arange(18, 30)
    scores = torch.zeros(V).index_fill(0, kept, 1.0)
    by_score, by_index = (
        pruned_generate(model, embeds, P, V, Schedule.of({1: 12}), replay=[replay]).stages[0]
        for replay in (scores, kept)
    )
    assert torch.equal(by_score.kept, kept)
    assert torch.equal(by_index.kept, kept)
    assert by_score.merge_candidates.tolist() == list(range(6))


def test_a_pruning_method_needs_a_schedule(model, embeds):
    with pytest.raises(ValueError, match=r"schedule \| got None"):
        pruned_generate(model, embeds, P, V, None)


@pytest.mark.parametrize("method", ["none", "sparsevlm"])
def test_what_is_added_is_part_of_the_first_layers_outputs(model, embeds, method):
    added = torch.zeros(1, P + V + T, 2 * 32)
    added[:, P : P + V] = torch.randn(1, V, 64, generator=torch.Generator().manual_seed(2))
    options = {"schedule": SCHEDULE, "method": method}
    own = pruned_generate(model, embeds, P, V, deepstack=added, **options)
    hooks = [
        layer.register_forward_hook(lambda _module, _given, output, part=part: output + part)
        for layer, part in zip(model.model.layers[:2], added.chunk(2, dim=2), strict=True)
    ]
    try:
        hooked = pruned_generate(model, embeds, P, V, **options)
        logits = model(inputs_embeds=embeds).logits[0, -1]
    finally:
        for hook in hooks:
            hook.remove()
    assert torch.equal(own.prefill_logits, hooked.prefill_logits)
    assert not torch.equal(
        own.prefill_logits, pruned_generate(model, embeds, P, V, **options).prefill_logits
    )
    if method == "none":
        torch.testing.assert_close(own.prefill_logits, logits)


def test_pruning_before_all_is_added_is_refused(model, embeds):
    added = torch.zeros(1, P + V + T, 3 * 32)
    with pytest.raises(ValueError, match=r"after layer 1 \| expected layer 2"):
        pruned_generate(model, embeds, P, V, SCHEDULE, deepstack=added)


def test_a_layer_beyond_the_model_is_refused(model, embeds):
    with pytest.raises(ValueError, match="for a model of 4 layers"):
        pruned_generate(model, embeds, P, V, Schedule.of({3: 5}))


def test_attention_without_probabilities_is_refused(embeds):
    with pytest.raises(ValueError, match='attn_implementation="eager"'):
        pruned_generate(tiny_llama("sdpa"), embeds, P, V, SCHEDULE)
