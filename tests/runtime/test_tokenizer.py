"""Ids and texts are those of transformers' AutoTokenizer, on tokenizers trained here."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend
from tokenizers.trainers import BpeTrainer
from transformers import AutoTokenizer

from sparsevlm_trt.runtime.errors import BundleError, InputError
from sparsevlm_trt.runtime.tokenizer import Tokenizer

CORPUS = [
    "The quick brown fox jumps over the lazy dog. What is in the image? A red circle.",
    "USER: how many circles are there?\nASSISTANT: there are 12, and 3 are blue.",
    "naïve café — 東京 😀 it's the end",
]
TEXTS = [
    "What is in the image?",
    "  two  spaces, a\ttab\n\nand lines  ",
    "東京タワー 😀👩‍👩‍👧 naïve ﬁ � end",
    "<image>\nUSER: the <image> fox</s> the end",
    "<|im_start|>user\nthe image<|im_end|>",
    "",
    " ",
    "<s>the fox",
]


def byte_level():
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=420,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(CORPUS, trainer)
    config = {
        "bos_token": "<|im_start|>",
        "eos_token": "<|im_end|>",
        "image_token": "<image>",
        "extra_special_tokens": ["<row>"],
        "added_tokens_decoder": {
            "0": {"content": "<|endoftext|>", "special": True, "normalized": False}
        },
    }
    return backend, {"tokenizer_config.json": config}


def metaspace():
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    backend = Backend(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    trainer = BpeTrainer(
        vocab_size=380, special_tokens=["<unk>", "<s>", "</s>", *byte_tokens], show_progress=False
    )
    backend.train_from_iterator(CORPUS[:2], trainer)
    state = json.loads(backend.to_str())
    state["added_tokens"] = [one for one in state["added_tokens"] if one["id"] < 3]
    backend = Backend.from_str(json.dumps(state))
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    backend.add_tokens([AddedToken("<image>", normalized=False, special=False)])
    backend.enable_truncation(4)
    backend.enable_padding(length=9)
    special = {
        "bos_token": {"content": "<s>", "lstrip": False, "normalized": False},
        "eos_token": "</s>",
        "unk_token": {"content": "<unk>"},
        "pad_token": "<pad>",
    }
    return backend, {"tokenizer_config.json": {}, "special_tokens_map.json": special}


def save(folder, backend, files):
    backend.save(str(folder / "tokenizer.json"))
    for name, content in files.items():
        if name == "tokenizer_config.json":
            content = {"tokenizer_class": "PreTrainedTokenizerFast", **content}
        (folder / name).write_text(json.dumps(content))
    return Tokenizer.open(folder), AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return {
        build.__name__: save(tmp_path_factory.mktemp(build.__name__), *build())
        for build in (byte_level, metaspace)
    }


KINDS = pytest.mark.parametrize("kind", ["byte_level", "metaspace"])


@KINDS
@pytest.mark.parametrize("text", TEXTS)
def test_encode_equals_auto_tokenizer(pairs, kind, text):
    ours, theirs = pairs[kind]
    begun = text.startswith(theirs.bos_token)
    expected = theirs(text, add_special_tokens=not begun)["input_ids"]
    assert ours.encode(text) == expected
    for skip in (True, False):
        assert ours.decode(expected, skip_special=skip) == theirs.decode(
            expected, skip_special_tokens=skip
        )


@KINDS
def test_the_vocabulary_equals_auto_tokenizer(pairs, kind):
    ours, theirs = pairs[kind]
    assert ours.vocab_size == len(theirs)
    assert ours.special_tokens == theirs.special_tokens_map
    for token in [*theirs.special_tokens_map.values(), "<image>"]:
        assert ours.token_id(token) == theirs.convert_tokens_to_ids(token)
    with pytest.raises(InputError, match="no such token"):
        ours.token_id("<video>")


@KINDS
@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=40))
def test_any_text_equals_auto_tokenizer(pairs, kind, text):
    ours, theirs = pairs[kind]
    ids = theirs(text)["input_ids"]
    assert ours.encode(text) == ids
    assert stream(ours, ids) == theirs.decode(ids, skip_special_tokens=True)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_ids_stream_to_their_text(pairs, data):
    ours, theirs = pairs["byte_level"]
    ids = data.draw(st.lists(st.integers(0, ours.vocab_size + 3), max_size=30))
    assert stream(ours, ids) == theirs.decode(ids, skip_special_tokens=True)


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_any_byte_fallback_ids_stream(pairs, data):
    ours, _ = pairs["metaspace"]
    ids = data.draw(st.lists(st.integers(0, ours.vocab_size - 1), max_size=30))
    whole = ours.decode(ids)
    if "�" not in whole:
        assert stream(ours, ids) == whole


@pytest.mark.parametrize("legacy", [True, False])
def test_a_class_that_transformers_rebuilds_is_equal_once_saved(tmp_path, legacy):
    # transformers 5 takes only vocabulary and merges of a LlamaTokenizer's tokenizer.json and
    # builds the rest anew; what it then saves is what it does.
    backend, files = metaspace()
    files["tokenizer_config.json"] |= {"tokenizer_class": "LlamaTokenizer", "legacy": legacy}
    _, theirs = save(tmp_path, backend, files)
    theirs.save_pretrained(tmp_path / "saved")
    ours = Tokenizer.open(tmp_path / "saved")
    assert ours.special_tokens == theirs.special_tokens_map
    for text in TEXTS:
        expected = theirs(text, add_special_tokens=not text.startswith("<s>"))["input_ids"]
        assert ours.encode(text) == expected
        assert stream(ours, expected) == theirs.decode(expected, skip_special_tokens=True)


def stream(tokenizer, ids):
    decoder = tokenizer.incremental()
    pieces = [decoder.feed(token) for token in ids]
    assert not any(piece.endswith("�") for piece in pieces)
    return "".join([*pieces, decoder.finish()])


@KINDS
def test_no_half_character_is_shown(pairs, kind):
    ours, _ = pairs[kind]
    decoder = ours.incremental()
    pieces = [decoder.feed(token) for token in ours.encode("a 😀 b")]
    assert "😀" in "".join(pieces)
    assert not any("�" in piece for piece in pieces)


def test_an_unfinished_character_shows_at_the_end(pairs):
    ours, _ = pairs["byte_level"]
    decoder = ours.incremental()
    decoder.feed(ours.encode("😀")[0])
    assert set(decoder.finish()) == {"�"}
    assert decoder.finish() == ""


def test_special_tokens_can_be_shown(pairs):
    ours, _ = pairs["byte_level"]
    ids = ours.encode("a<|im_end|>")
    decoder = ours.incremental(skip_special=False)
    assert "".join(map(decoder.feed, ids)) == "a<|im_end|>"


@pytest.mark.parametrize("bad", ["lone \ud800", 7, None])
def test_what_is_no_text_is_refused(pairs, bad):
    with pytest.raises(InputError, match="no Unicode text"):
        pairs["byte_level"][0].encode(bad)


def test_a_missing_or_broken_tokenizer_is_refused(tmp_path):
    with pytest.raises(BundleError, match=r"no tokenizer\.json"):
        Tokenizer.open(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(BundleError, match="tokenizers library"):
        Tokenizer.open(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"bos_token": 3}')
    with pytest.raises(BundleError, match="special tokens"):
        Tokenizer.open(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("[]")
    with pytest.raises(BundleError, match="expected a JSON object"):
        Tokenizer.open(tmp_path)
