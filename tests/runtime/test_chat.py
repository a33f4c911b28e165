"""Prompts are those of transformers' apply_chat_template; a template can do nothing else."""

import enum
import json

import numpy as np
import pytest
from PIL import Image
from tokenizers import Tokenizer as Backend
from tokenizers import models
from transformers import AutoTokenizer
from transformers.processing_utils import ProcessorMixin

from sparsevlm_trt.runtime.chat import ChatTemplate
from sparsevlm_trt.runtime.errors import BundleError, InputError

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
LLAVA_LINES = r"""{% for message in messages %}
{% if message['role'] != 'system' %}
{{ message['role'].upper() + ': '}}
{% endif %}
{# images first #}
{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}
{{ '<image>\n' }}
{% endfor %}
{% if message['role'] != 'assistant' %}
{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}
{{ content['text'] + ' '}}
{% endfor %}
{% else %}
{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}
{% generation %}
{{ content['text'] + ' '}}
{% endgeneration %}
{% endfor %}
{% endif %}
{% endfor %}
{% if add_generation_prompt %}
{{ 'ASSISTANT:' }}
{% endif %}
"""
LLAVA = LLAVA_LINES.replace("\n", "")  # as published, on one line
CHATML = """{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}\
{{ '<|im_start|>system\nYou are helpful<|im_end|>\n' }}{% endif %}\
{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}\
{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""
MISTRAL = """{{ bos_token }}{% for message in messages %}\
{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}\
{{ raise_exception('roles must alternate') }}{% endif %}\
{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}\
{% else %}{{ message['content'] + eos_token }}{% endif %}{% endfor %}"""
ODDS = """{%- set ns = namespace(count=0, self='x') -%}
{%- for message in messages -%}
    {%- if message.role == 'skip' -%}{%- continue -%}{%- endif -%}
    {%- set ns.count = ns.count + 1 -%}
    {{- message | tojson }} {{ message.content | tojson(indent=2, sort_keys=true) }}
    {%- if ns.count > 2 -%}{%- break -%}{%- endif -%}
{%- endfor -%}
{{ dict(a=ns.count) | tojson }} {{ dict.fromkeys(['b']) }} {{ strftime_now('%Y') }} {{ ns.self }}
{{ tools is none }} {{ documents is none }} {{ missing is defined }} {{ unk_token }}
"""


def text(role, content, **rest):
    return {"role": role, "content": content, **rest}


def parts(role, *content):
    return {"role": role, "content": list(content)}


PLAIN = [text("system", "Be brief."), text("user", "Hi <b> & é 東"), text("assistant", "Yes.")]
TURNS = [text("user", "One?"), text("assistant", "1"), text("user", "Two?", name=None)]
IMAGES = [
    parts("user", {"type": "image"}, {"type": "text", "text": "What is it?"}),
    parts("assistant", {"type": "text", "text": "A dog."}),
    parts("user", {"type": "text", "text": "And this?"}, {"type": "image", "image": "x.png"}),
]
CASES = [
    (LLAVA, IMAGES),
    (LLAVA_LINES, IMAGES),
    (LLAVA, [parts("system", {"type": "text", "text": "Look."}), *IMAGES]),
    (CHATML, PLAIN),
    (CHATML, TURNS),
    (MISTRAL, TURNS),
    (ODDS, [*PLAIN, text("skip", "no"), *TURNS]),
    (ODDS, IMAGES),
]


def folder_with(tmp_path, config, **files):
    Backend(models.BPE()).save(str(tmp_path / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **SPECIAL, **config}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    for name, content in files.items():
        (tmp_path / name.replace("__", ".")).write_text(content, newline="")
    return tmp_path


@pytest.mark.parametrize("prompted", [True, False])
@pytest.mark.parametrize("case", range(len(CASES)))
def test_prompts_equal_transformers(tmp_path, case, prompted):
    template, messages = CASES[case]
    folder = folder_with(tmp_path, {"chat_template": template})
    expected = AutoTokenizer.from_pretrained(folder).apply_chat_template(
        messages, tokenize=False, add_generation_prompt=prompted
    )
    actual = ChatTemplate.open(folder).render(messages, add_generation_prompt=prompted)
    assert actual == expected


def test_llava_writes_what_its_model_was_trained_on():
    rendered = ChatTemplate.of(LLAVA, SPECIAL).render(IMAGES[:1])
    assert rendered == "USER: <image>\nWhat is it? ASSISTANT:"


def test_image_url_parts_equal_the_processors():
    url = {"type": "image_url", "image_url": {"url": "x"}}
    messages = [parts("user", url, {"type": "image_url", "image_url": "y"})]
    template = "{% for part in messages[0].content %}{{ part | tojson }}{% endfor %}"
    normalised, _ = ProcessorMixin._normalize_conversations(None, messages)
    expected = "".join(json.dumps(part) for part in normalised[0][0]["content"])
    assert ChatTemplate.of(template, {}).render(messages) == expected


def test_the_template_is_found_where_transformers_finds_it(tmp_path):
    config = {"chat_template": "from config\n"}
    folder = folder_with(tmp_path, config)
    assert ChatTemplate.open(folder).render(PLAIN) == "from config"
    (tmp_path / "chat_template.jinja").write_bytes(b"from\r\njinja\n")
    theirs = AutoTokenizer.from_pretrained(folder)
    assert ChatTemplate.open(folder).render(PLAIN) == "from\njinja"
    assert theirs.apply_chat_template(PLAIN, tokenize=False) == "from\njinja"
    (tmp_path / "chat_template.json").write_text('{"chat_template": "from json"}')
    assert ChatTemplate.open(folder).render(PLAIN) == "from json"


def test_named_templates_give_the_default(tmp_path):
    both = [{"name": "tool_use", "template": "no"}, {"name": "default", "template": "yes"}]
    folder = folder_with(tmp_path, {"chat_template": both})
    assert ChatTemplate.open(folder).render(PLAIN) == "yes"
    with pytest.raises(BundleError, match="one named"):
        ChatTemplate.open(folder_with(tmp_path, {"chat_template": both[:1]}))


def test_a_checkpoint_without_a_template_has_none(tmp_path):
    assert ChatTemplate.open(folder_with(tmp_path, {})) is None
    assert ChatTemplate.open(tmp_path / "nowhere") is None


def test_a_template_that_does_not_compile_is_a_broken_bundle():
    with pytest.raises(BundleError, match="expected a Jinja template"):
        ChatTemplate.of("{% for %}", {})


def test_a_templates_own_refusal_is_told():
    with pytest.raises(InputError, match="roles must alternate"):
        ChatTemplate.of(MISTRAL, SPECIAL).render(PLAIN)


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages.append(1) }}",
        "{{ messages[0].update(role='x') }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ ''['__class__']['__mro__'] }}",
        "{{ '{0.__class__.__init__}'.format(1).x.y }}",
        "{{ raise_exception.__globals__['json'] }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{% set ns = namespace() %}{% set ns.__init__ = 1 %}",
        "{{ namespace(_x=1) }}",
        "{{ namespace.__init__.__globals__['x'] }}",
        "{{ range(999999999) | list }}",
        "{{ messages[0].content + 1 }}",
        "{{ 1 / 0 }}",
        "{% include 'secret' %}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    ],
)
def test_a_hostile_or_broken_template_is_refused(template):
    with pytest.raises(InputError, match="chat template") as caught:
        ChatTemplate.of(template, {}).render(PLAIN)
    assert str(caught.value).count(" | ") == 3


def test_values_reach_the_template_as_plain_data():
    class Role(str, enum.Enum):
        user = "user"

    image = Image.new("RGB", (2, 2))
    part = {"type": "image", "image": image, "array": np.zeros(2), "flag": np.bool_(False)}
    messages = ({"role": Role.user, "content": (part, np.float32(0.5), True)},)
    template = "{{ messages[0].role }} {{ messages[0].content }}"
    rendered = ChatTemplate.of(template, {}).render(messages)
    assert rendered == (
        "user [{'type': 'image', 'image': '<Image>', 'array': '<ndarray>', 'flag': False}, "
        "0.5, True]"
    )
    assert messages[0]["content"][0]["image"] is image


@pytest.mark.parametrize("bad", [[], "Hi", None, ["Hi"], {"role": "user"}, [None]])
def test_what_is_no_conversation_is_refused(bad):
    with pytest.raises(InputError, match="at least one mapping"):
        ChatTemplate.of(CHATML, {}).render(bad)
