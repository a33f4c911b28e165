"""What a program calls: text and images in, answers, pieces and traces out."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from sparsevlm_trt.runtime import Bundle, Session
from sparsevlm_trt.runtime.errors import InputError, PlanError
from sparsevlm_trt.runtime.graph_spec import FileSpec

IMAGE, END = 30, 31
PROMPT = "a <image> b c d"
TEMPLATE = (
    "{% for m in messages %}{% for part in m.content %}"
    "{% if part.type == 'image' %}<image> {% else %}{{ part.text }}{% endif %}"
    "{% endfor %}{% endfor %}"
)


def write_processor(folder):
    folder.mkdir()
    words = [*"abcdefghijklmnopqrstuvwxyz", "0", "1", "2", "[UNK]"]
    vocab = {word: index for index, word in enumerate(words)} | {"<image>": IMAGE, "</s>": END}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(["<image>", "</s>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    files = {
        "tokenizer_config.json": {"eos_token": "</s>", "chat_template": TEMPLATE},
        "generation_config.json": {"eos_token_id": END},
        "preprocessor_config.json": {
            "image_processor_type": "CLIPImageProcessor",
            "do_resize": True,
            "size": {"height": 6, "width": 8},
            "do_center_crop": False,
            "do_normalize": True,
            "image_mean": [0.5, 0.5, 0.5],
            "image_std": [0.5, 0.5, 0.5],
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "resample": 3,
        },
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))


@pytest.fixture
def make_session(tmp_path, make_model):
    def make(processor=True, image_cache_bytes=0, **options):
        manifest, runner = make_model(**options)
        if processor:
            write_processor(tmp_path / "processor")
            names = [f"processor/{path.name}" for path in (tmp_path / "processor").iterdir()]
            listed = dict.fromkeys(names, FileSpec("0" * 64, 0))
            manifest = dataclasses.replace(manifest, files=listed)
        return Session(Bundle(tmp_path, manifest), runner, image_cache_bytes)

    return make


@pytest.fixture
def session(make_session):
    return make_session()


def image(seed=0, shape=(12, 16, 3)):
    return np.random.default_rng(seed).integers(0, 255, shape, np.uint8)


def embeds(batch=None, length=19):
    shape = (length, 8) if batch is None else (batch, length, 8)
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


def ask(session, **options):
    options = {
        "images": image(),
        "prompt": PROMPT,
        "max_new_tokens": 6,
        "stop_tokens": (),
    } | options
    return session.generate(**options)


def test_an_answer_and_its_trace(session):
    result = ask(session)
    trace = result.trace
    assert (trace.prefix_length, trace.num_visual, trace.num_text) == (1, 12, 3)
    assert [step.layer for step in trace.stages] == [1, 3]
    assert result.prefill_logits.shape == (32,)
    assert result.step_logits.shape == (5, 32)
    assert result.tokens[0] == result.prefill_logits.argmax()
    assert result.tokens[1:] == result.step_logits.argmax(axis=1).tolist()
    assert result.finish_reason == "length"
    assert len(trace.decode_ms) == len(trace.host_decode_ms) == 5
    steps = [step for step, _ in trace.timings_ms]
    assert steps[:4] == ["images", "tokenize", "vision", "embed"]
    assert steps[-1] == "head"
    lengths = [4 + 12, *(4 + step.num_visual_out for step in trace.stages)]
    assert list(trace.cache_lengths) == [length + 5 for length in lengths]
    entry = 2 * 8 * 4  # bytes of a key and a value in one layer
    assert trace.kv_bytes == tuple(2 * entry * length for length in trace.cache_lengths)
    assert trace.kv_bytes_total == sum(trace.kv_bytes)
    assert trace.grid == (3, 4)
    assert 0 < trace.host_ms < trace.prefill_ms + sum(trace.decode_ms)


def test_an_image_that_was_seen_needs_no_vision(make_session):
    session = make_session(image_cache_bytes=1 << 20)
    first = ask(session)
    other = ask(session, images=[image(3)])
    again = ask(session, prompt="e f <image> a b c")
    runs = [call for call in session.runner.calls if call.graph == "vision"]
    assert len(runs) == 2
    assert "vision" in [step for step, _ in other.trace.timings_ms]
    assert "vision" not in [step for step, _ in again.trace.timings_ms]
    assert ask(session).tokens == first.tokens
    two = {"images": [image(3), image(4)], "prompt": "<image> <image> a b"}
    both = ask(session, **two)  # one of them was seen
    session.chain = make_session(processor=False).chain
    assert both.tokens == ask(session, **two).tokens


def test_embeddings_and_text_lead_to_the_same_answer(session):
    result = ask(session)
    pixels = session.processor.images([image()])
    features = session.runner.run("vision", {"pixel_values": pixels})["image_features"][0]
    words = session.runner.table[[0, 1, 2, 3]]
    whole = np.concatenate([words[:1], features, words[1:]])
    again = session.generate_from_embeds(
        whole, prefix_length=1, num_visual=12, max_new_tokens=6, stop_tokens=()
    )
    assert again.tokens == result.tokens
    assert again.text == result.text


def test_pieces_stream_as_they_come_and_join_to_the_text(session):
    seen = []
    result = ask(session, stream=lambda piece, token: seen.append((piece, token)))
    assert [token for _, token in seen] == result.tokens
    assert "".join(piece for piece, _ in seen) == result.text

    def collect():
        collected = yield from session.stream(
            images=image(), prompt=PROMPT, max_new_tokens=6, stop_tokens=()
        )
        finals.append(collected)

    finals: list[object] = []
    pieces = list(collect())
    assert all(pieces)
    assert "".join(pieces) == result.text == finals[0].text


def test_a_stop_token_ends_the_answer_and_is_not_in_the_text(session):
    free = ask(session)
    stop = free.tokens[2]
    first = free.tokens.index(stop)
    result = ask(session, stop_tokens=[stop])
    assert result.tokens == free.tokens[: first + 1]
    assert result.finish_reason == "stop"
    assert result.text == session.processor.tokenizer.decode(free.tokens[:first])
    assert result.step_logits.shape == (first, 32)


def test_a_stop_text_ends_the_answer_across_tokens(session):
    free = ask(session, temperature=2.0, seed=3, max_new_tokens=8)
    stop = free.text[2:4]
    result = ask(session, temperature=2.0, seed=3, max_new_tokens=8, stop=stop)
    assert result.text == free.text[: free.text.index(stop)]
    assert result.finish_reason == "stop"


def test_the_generation_configs_stop_token_is_the_default(session, monkeypatch):
    monkeypatch.setattr(
        session.runner,
        "_head",
        lambda _, inputs: {
            "logits": np.eye(32, dtype=np.float32)[[END]].repeat(len(inputs["hidden_states"]), 0)
        },
    )
    result = ask(session, stop_tokens=None)
    assert (result.tokens, result.text, result.finish_reason) == ([END], "", "stop")
    assert len(ask(session, stop_tokens=()).tokens) == 6


def test_a_seed_repeats_the_answer(session):
    options = {"temperature": 1.5, "max_new_tokens": 12}
    first = ask(session, seed=7, **options)
    assert ask(session, seed=7, **options).tokens == first.tokens
    assert any(ask(session, seed=seed, **options).tokens != first.tokens for seed in range(5))


def test_messages_go_through_the_chat_template(session):
    content = [
        {"type": "text", "text": "a "},
        {"type": "image"},
        {"type": "text", "text": "b c d"},
    ]
    result = ask(session, prompt=None, messages=[{"role": "user", "content": content}])
    assert result.tokens == ask(session).tokens


def test_all_images_are_one_block_with_the_words_between_them(session):
    both = ask(session, images=[image(0), image(1)], prompt="a <image><image> b").trace
    assert (both.prefix_length, both.num_visual, both.num_text) == (1, 24, 1)
    apart = ask(session, images=[image(0), image(1)], prompt="a <image> b <image> c").trace
    assert (apart.prefix_length, apart.num_visual, apart.num_text) == (1, 25, 1)
    assert apart.words == (12,)
    assert apart.num_patches == 24
    for step in apart.stages:
        assert (step.patches == -2).sum() == 1


@pytest.mark.parametrize("method", ["sparsevlm", "none"])
def test_text_alone_works_with_every_method(session, method):
    result = ask(session, images=None, prompt="a b c", method=method)
    assert result.trace.stages == ()
    assert set(result.trace.cache_lengths) == {3 + 5}


def test_replaying_a_trace_repeats_the_answer(session):
    result = ask(session)
    scores = [step.scores for step in result.trace.stages]
    again = ask(session, replay=scores)
    assert again.tokens == result.tokens
    np.testing.assert_allclose(again.step_logits, result.step_logits, atol=1e-5)


def test_a_batch_answers_as_each_would_alone(session):
    prompts = [
        {"images": image(i), "prompt": f"a <image> {word} c d"} for i, word in enumerate("bxy")
    ]
    options = {"max_new_tokens": 5, "stop_tokens": ()}
    batch = session.generate_batch(prompts, **options)
    for prompt, result in zip(prompts, batch, strict=True):
        alone = session.generate(**prompt, **options)
        assert result.tokens == alone.tokens
        assert result.text == alone.text
        np.testing.assert_allclose(result.step_logits, alone.step_logits, atol=1e-4)


def test_prompts_of_any_length_answer_as_each_would_alone(session):
    prompts = [
        {"images": image(0), "prompt": "a <image> b c d"},
        {"prompt": "a b c"},
        {"images": [image(1), image(2)], "prompt": "<image><image> x y z a b c d"},
        {"images": image(3), "prompt": "b <image> b c d"},  # laid out as the first
        {"prompt": "d"},
        {"images": image(4), "prompt": "a b c d <image>"},
    ]
    for method in ("sparsevlm", "fastv", "none"):  # fastv keeps original positions
        options = {"max_new_tokens": 7, "method": method, "stop_tokens": [5]}
        together = session.generate_batch(prompts, **options)
        for prompt, result in zip(prompts, together, strict=True):
            alone = session.generate(**prompt, **options)
            assert result.tokens == alone.tokens
            assert (result.text, result.finish_reason) == (alone.text, alone.finish_reason)
            np.testing.assert_allclose(result.step_logits, alone.step_logits, atol=1e-4)
            for name in ("cache_lengths", "kv_bytes", "num_visual", "prefix_length"):
                assert getattr(result.trace, name) == getattr(alone.trace, name)
            assert len(result.trace.decode_ms) == len(result.tokens) - 1


def test_a_row_that_ends_early_does_not_end_the_others(session):
    options = {"prefix_length": 2, "num_visual": 12, "max_new_tokens": 6}
    free = session.generate_from_embeds(embeds(3), stop_tokens=(), **options)
    stop = free[0].tokens[1]
    for result, whole in zip(
        session.generate_from_embeds(embeds(3), stop_tokens=[stop], **options), free, strict=True
    ):
        stopped = stop in whole.tokens
        length = whole.tokens.index(stop) + 1 if stopped else 6
        assert result.tokens == whole.tokens[:length]
        assert result.finish_reason == ("stop" if stopped else "length")
        assert len(result.step_logits) == length - 1


def test_without_logits_the_tokens_are_the_same(session):
    result = ask(session, keep_logits=False)
    assert result.step_logits.shape == (0, 32)
    assert result.tokens == ask(session).tokens


def test_answers_end_at_the_models_last_position(session):
    result = session.generate_from_embeds(
        embeds(length=60), prefix_length=2, num_visual=12, max_new_tokens=99, stop_tokens=()
    )
    assert len(result.tokens) == 64 - 60 + 1
    assert result.finish_reason == "length"


def test_a_half_precision_bundle_takes_and_keeps_halves(make_session):
    session = make_session(dtype="float16")
    result = session.generate_from_embeds(
        embeds(), prefix_length=2, num_visual=12, max_new_tokens=3, stop_tokens=()
    )
    assert result.prefill_logits.dtype == result.step_logits.dtype == np.float32
    assert result.trace.kv_bytes[0] == 2 * (2 * 8 * 2) * (19 + 2)


def test_without_a_tokenizer_there_are_tokens_but_no_text(make_session):
    session = make_session(processor=False)
    result = session.generate_from_embeds(
        embeds(), prefix_length=2, num_visual=12, max_new_tokens=3
    )
    assert len(result.tokens) == 3
    assert result.text is None
    with pytest.raises(InputError, match="has no tokenizer"):
        session.generate(prompt="a b")
    with pytest.raises(InputError, match="no chat template"):
        session.generate(messages=[{"role": "user", "content": "a"}])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"prompt": None}, "neither of prompt and messages"),
        ({"messages": []}, "both of prompt and messages"),
        ({"prompt": "a b"}, "got 0 image placeholders and 1 images"),
        ({"prompt": "<image> a <image>"}, "got 2 image placeholders and 1 images"),
        ({"images": None}, "got 1 image placeholders and 0 images"),
        ({"images": None, "prompt": ""}, "got 0 tokens .* write one"),
        ({"images": None, "prompt": "a " * 65}, "got 65 tokens .* shorten it"),
        ({"images": "nowhere.png"}, "nowhere.png"),
        ({"images": 3}, "image"),
        ({"prompt": "<image>" + " a" * 53}, "got 65 tokens .* 1 to 64"),
        ({"max_tokens": 3}, "max_tokens"),
    ],
)
def test_prompts_that_cannot_be_used(session, options, words):
    with pytest.raises(InputError, match=words):
        ask(session, **options)


def test_a_prompt_too_long_runs_no_graph(session):
    with pytest.raises(InputError, match="shorten it"):
        ask(session, prompt="<image>" + " a" * 53)
    assert not session.runner.calls


def test_an_unreadable_image_names_its_file(session, tmp_path):
    path = tmp_path / "notes.png"
    path.write_text("not an image")
    with pytest.raises(InputError, match=r"notes\.png"):
        ask(session, images=path)


def test_a_language_model_takes_no_images(make_session):
    with pytest.raises(InputError, match="no vision graph"):
        ask(make_session(vision=False))


def test_images_of_another_size_than_the_graphs_are_refused(session, tmp_path):
    path = tmp_path / "processor/preprocessor_config.json"
    path.write_text(path.read_text().replace('"width": 8', '"width": 6'))
    with pytest.raises(InputError, match=r"got \[6, 6\] pixels"):
        ask(session)


@pytest.mark.parametrize(
    ("given", "options", "words"),
    [
        ([[1.0]], {}, "got list"),
        (np.ones((19, 8), np.int64), {}, "got int64"),
        (np.ones((19, 9), np.float32), {}, r"got shape \[1, 19, 9\]"),
        (np.ones((8,), np.float32), {}, r"got shape \[8\]"),
        (np.ones((0, 8), np.float32), {}, r"got shape \[1, 0, 8\]"),
        (embeds(), {"num_visual": 18}, "prefix_length 2 and num_visual 18"),
        (embeds(), {"prefix_length": -1}, "prefix_length -1"),
        (embeds(2), {"stream": print}, "a batch of 2"),
        (embeds(length=65), {}, "got 65 tokens .* 1 to 64"),
    ],
)
def test_embeddings_that_cannot_be_used(session, given, options, words):
    with pytest.raises(InputError, match=words):
        session.generate_from_embeds(given, **({"prefix_length": 2, "num_visual": 12} | options))


@pytest.mark.parametrize(
    ("prompts", "options", "words"),
    [
        ([], {}, "got no prompt"),
        ([{"prompt": "a", "budget": 64}], {}, "budget"),
        ([{"prompt": "a"}, {"prompt": "b"}], {"stream": print}, "a batch of 2"),
    ],
)
def test_batches_that_cannot_be_used(session, prompts, options, words):
    with pytest.raises(InputError, match=words):
        session.generate_batch(prompts, **options)


def test_an_unknown_method_names_the_bundles(session):
    with pytest.raises(PlanError, match="sparsevlm, fastv, random, uniform, none"):
        ask(session, method="magic")


def test_a_method_seed_draws_the_same_tokens_again(session):
    kept = [
        [step.kept.tolist() for step in ask(session, method="random", method_seed=n).trace.stages]
        for n in (4, 4, 5)
    ]
    assert kept[0] == kept[1] != kept[2]


def test_a_session_closes_its_runner(session):
    with session as opened:
        assert opened is session
    assert session.runner.closed
