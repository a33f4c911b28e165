"""Special tokens are found, named and numbered as transformers' AutoTokenizer does it."""

import json

import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers
from transformers import AutoTokenizer

from sparsevlm_trt.runtime.special_tokens import SpecialTokens
from sparsevlm_trt.runtime.tokenizer import Tokenizer

ADDED = {"__type": "AddedToken", "content": "<e>", "lstrip": True, "normalized": False}
CONFIGS = {
    "none": {},
    "texts": {"eos_token": "<e>", "bos_token": "<b>", "image_token": "<i>", "add_bos_token": True},
    "nulls": {"eos_token": None, "pad_token": "<p>"},
    "saved_form": {"eos_token": ADDED | {"special": True}},
    "extra_list": {"extra_special_tokens": ["<x>", "<y>"], "bos_token": "<y>"},
    "extra_dict": {"extra_special_tokens": {"image_token": "<i>", "row_token": "<r>"}},
    "additional": {"additional_special_tokens": ["<x>", "<y>"]},
    "decoder": {
        "eos_token": "<e>",
        "bos_token": "<b>",
        "added_tokens_decoder": {
            "9": {"content": "<e>", "rstrip": True, "special": True, "normalized": False},
            "2": {"content": "word", "special": False, "normalized": True},
        },
    },
}
MAPS = {
    "no_map": None,
    "map": {
        "unk_token": {"content": "<u>", "rstrip": True, "normalized": False},
        "eos_token": "<end>",
        "additional_special_tokens": ["<z>"],
    },
    "map_with_extra_list": {"extra_special_tokens": ["<z>", {"content": "<x>"}]},
    "map_with_extra_dict": {"extra_special_tokens": {"row_token": "<r>"}},
}
TEXT = "word <e> word <b>word<i> <x><y>  <r> <end> <u> word <z><p>"


@pytest.mark.parametrize("special_map", MAPS)
@pytest.mark.parametrize("config", CONFIGS)
def test_tokens_equal_auto_tokenizer(tmp_path, config, special_map):
    vocab = {"word": 0, " ": 1, "<": 2, ">": 3, "e": 4, "<u>": 5}
    backend = Backend(models.WordLevel(vocab, unk_token="<u>"))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    backend.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **CONFIGS[config]})
    )
    if MAPS[special_map] is not None:
        (tmp_path / "special_tokens_map.json").write_text(json.dumps(MAPS[special_map]))
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    ours = Tokenizer.open(tmp_path)
    ids = theirs(TEXT)["input_ids"]
    assert ours.encode(TEXT) == ids
    assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)
    assert ours.vocab_size == len(theirs)
    assert SpecialTokens.open(tmp_path).named == theirs.special_tokens_map


def test_a_folder_without_configs_names_none(tmp_path):
    assert SpecialTokens.open(tmp_path) == SpecialTokens({}, (), ())
