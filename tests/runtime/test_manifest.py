"""bundle.json: what is read is what was written, and everything wrong is said at once."""

import copy
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsevlm_trt.runtime.errors import BundleError
from sparsevlm_trt.runtime.graph_spec import FileSpec, GraphSpec, Link, StageSpec, TensorSpec
from sparsevlm_trt.runtime.manifest import Manifest, PlanSpec
from sparsevlm_trt.runtime.model_spec import ModelSpec, VisionSpec

SAMPLE = Path(__file__).parent / "samples" / "bundle.json"

counts = st.integers(1, 2**40)
texts = st.text(max_size=12)
names = st.text(min_size=1, max_size=12)
hashes = st.text("0123456789abcdef", min_size=64, max_size=64)
tensors = st.builds(
    TensorSpec,
    name=names,
    dtype=st.sampled_from(["float32", "float16", "int64", "bool"]),
    shape=st.lists(counts | names, max_size=4).map(tuple),
)
sides = st.lists(tensors, max_size=3, unique_by=lambda tensor: tensor.name).map(tuple)
graphs = st.builds(
    GraphSpec,
    file=texts,
    sha256=hashes,
    size_bytes=st.integers(0, 2**50),
    inputs=sides,
    outputs=sides,
    weights=st.lists(texts, max_size=3, unique=True).map(tuple),
)
models = st.builds(
    ModelSpec,
    **dict.fromkeys(("source", "model_type", "text_model_type", "weights_sha256"), texts),
    **dict.fromkeys(("num_layers", "hidden_size", "intermediate_size", "head_dim"), counts),
    **dict.fromkeys(("vocab_size", "max_position"), counts),
    num_heads=st.just(12),
    num_kv_heads=st.sampled_from([1, 2, 3, 4, 6, 12]),
    dtype=st.sampled_from(["float32", "float16"]),
    tied_head=st.booleans(),
    num_deepstack=st.none() | counts,
    cache_dtype=st.none() | st.sampled_from(["float16", "int8"]),
)
visions = st.builds(
    VisionSpec,
    **dict.fromkeys(("num_visual", "hidden_size", "intermediate_size", "num_layers"), counts),
    grid=st.tuples(counts, counts),
    image_size=st.tuples(counts, counts),
    image_token_id=st.integers(0, 2**31),
    num_positions=counts,
)


@st.composite
def plans(draw: st.DrawFn) -> PlanSpec:
    boundaries = sorted(draw(st.sets(st.integers(0, 40), max_size=4)))
    layers = draw(st.sets(st.sampled_from(boundaries))) if boundaries else set()
    methods = draw(st.lists(names, min_size=1, max_size=3, unique=True))
    return PlanSpec(
        method=draw(st.sampled_from(methods)),
        methods=tuple(methods),
        boundaries=tuple(boundaries),
        budget=draw(st.none() | counts),
        schedule={layer: draw(counts) for layer in sorted(layers)},
        source=draw(texts),
    )


manifests = st.builds(
    Manifest,
    model=models,
    vision=st.none() | visions,
    plan=plans(),
    stages=st.lists(
        st.builds(StageSpec, graph=texts, first=st.integers(), stop=st.integers()), max_size=3
    ).map(tuple),
    graphs=st.dictionaries(
        st.from_regex(r"[a-z0-9_+\-]{1,9}", fullmatch=True), graphs, max_size=3
    ),
    links=st.lists(st.builds(Link, source=texts, target=texts), max_size=3).map(tuple),
    files=st.dictionaries(
        texts, st.builds(FileSpec, sha256=hashes, size_bytes=st.integers(0, 2**50)), max_size=3
    ),
    tools=st.dictionaries(texts, texts, max_size=3),
)


@pytest.fixture
def plain() -> dict:
    return json.loads(SAMPLE.read_text())


@given(manifests)
@settings(max_examples=60, deadline=None)
def test_what_is_read_is_what_was_written(manifest: Manifest) -> None:
    text = manifest.to_text()
    assert Manifest.from_text(text) == manifest
    assert Manifest.from_text(text).to_text() == text


def test_the_text_is_sorted_ascii_and_ends_in_a_newline() -> None:
    text = SAMPLE.read_text()
    assert Manifest.from_text(text).to_text() == text
    assert text.isascii()
    assert text.endswith("}\n")
    assert '"format_version": 3' in text


def test_json_spells_links_and_schedules_as_documented(plain: dict) -> None:
    manifest = Manifest.from_json(plain)
    assert plain["links"][0] == {
        "from": "embed.inputs_embeds",
        "to": "stage_0.hidden_states",
    }
    assert manifest.links[0] == Link("embed.inputs_embeds", "stage_0.hidden_states")
    assert plain["plan"]["schedule"] == {"0": 6}
    assert manifest.plan.schedule == {0: 6}
    assert manifest.graphs["head"].input("hidden_states").shape == ("batch", 8)
    assert manifest.graphs["head"].output("logits").dtype == "float32"
    assert manifest.stages[1].num_layers == 2


def test_every_structural_problem_is_said_at_once(plain: dict) -> None:
    plain["surprise"] = 1
    del plain["tools"]
    plain["model"]["num_layers"] = "three"
    plain["model"]["tied_head"] = 1
    plain["model"]["extra"] = None
    plain["vision"]["grid"] = [4, 4, 4]
    plain["stages"][0]["first"] = True
    plain["stages"][1]["stop"] = 3.0
    plain["plan"]["schedule"] = {"00": 6}
    plain["graphs"]["head"]["inputs"][0]["shape"] = [None]
    del plain["links"][0]["to"]
    with pytest.raises(BundleError) as caught:
        Manifest.from_json(plain)
    said = str(caught.value)
    for part in (
        "top level | unknown keys surprise",
        "top level | missing keys tools",
        'model.num_layers | got "three" | expected an integer',
        "model.tied_head | got 1 | expected true or false",
        "model | unknown keys extra",
        "vision.grid | got a list of 3 | expected a list of 2",
        "stages[0].first | got true | expected an integer",
        "stages[1].stop | got 3.0 | expected an integer",
        "plan.schedule | got key '00' | expected a decimal number",
        "graphs[head].inputs[0].shape[0] | got null | expected an integer or a string",
        "links[0] | missing keys to",
    ):
        assert part in said
    assert said.startswith("bundle.json | 11 problems")


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("model.dtype", "float64", "expected one of float32, float16"),
        ("model.num_layers", 0, "expected 1 or more"),
        ("model.num_kv_heads", 3, "expected a divisor of num_heads 2"),
        ("model.num_deepstack", 0, "expected 1 or more"),
        ("model.cache_dtype", "int4", "expected one of float32, float16, int8"),
        ("vision.image_size", [0, 4], "expected 1 or more"),
        ("plan.method", "fastv", "expected one of none, sparsevlm"),
        ("plan.boundaries", [2, 1], "expected ascending layers"),
        ("plan.budget", 0, "expected 1 or more, or null"),
        ("plan.schedule", {"1": 6}, "no boundary after layer 1"),
        ("plan.schedule", {"0": 0}, "expected 1 or more"),
        ("graphs.head.sha256", "ABC", "expected 64 hexadecimal digits"),
        ("graphs.head.size_bytes", -1, "expected 0 or more"),
        ("graphs.head.weights", ["a", "a"], "'a' more than once"),
        ("graphs.head.inputs", [{"name": "", "dtype": "f4", "shape": [0, ""]}], "4 problems"),
        ("graphs.a/b", {}, "missing keys"),
        ("vision", 3, "expected an object or null"),
        ("files", [], "got a list of 0 | expected an object"),
    ],
)
def test_values_that_cannot_be_are_refused(
    plain: dict, path: str, value: object, said: str
) -> None:
    place = plain
    *parents, last = path.split(".")
    for key in parents:
        place = place[key]
    place[last] = value
    with pytest.raises(BundleError) as caught:
        Manifest.from_json(plain)
    assert said in str(caught.value)


def test_a_graph_name_with_a_dot_is_refused(plain: dict) -> None:
    plain["graphs"]["a.b"] = copy.deepcopy(plain["graphs"]["head"])
    with pytest.raises(BundleError, match=r"graphs\[a\.b\] \| not a graph's name"):
        Manifest.from_json(plain)


def test_a_text_only_bundle_has_null_for_vision(plain: dict) -> None:
    plain["vision"] = None
    assert Manifest.from_json(plain).vision is None
    del plain["vision"]
    with pytest.raises(BundleError, match="missing keys vision"):
        Manifest.from_json(plain)


@pytest.mark.parametrize("version", [0, 1, 99])
def test_another_version_is_named_with_the_one_known(plain: dict, version: int) -> None:
    plain["format_version"] = version
    plain["something"] = "that only the other version knows"
    with pytest.raises(BundleError, match=rf"format_version {version} \| this reader knows 3 \|"):
        Manifest.from_json(plain)


@pytest.mark.parametrize("version", ["1", 1.0, True, None])
def test_a_version_that_is_no_integer_is_a_wrong_type(plain: dict, version: object) -> None:
    plain["format_version"] = version
    with pytest.raises(BundleError, match=r"format_version \| got .* \| expected an integer"):
        Manifest.from_json(plain)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a": 1, "a": 2}', "repeated keys: a"),
        ('{"a": NaN}', "NaN is not a JSON number"),
        ('{"a": -Infinity}', "-Infinity is not a JSON number"),
        ("", "not strict JSON"),
        ("{", "not strict JSON"),
        (b"\xff\xfe{}", "not strict JSON"),
        ("[" * 100_000, "not strict JSON"),
        ("[]", "expected an object"),
        ("null", "expected an object"),
    ],
)
def test_text_that_is_not_strict_json_is_one_sentence(text: str | bytes, said: str) -> None:
    with pytest.raises(BundleError) as caught:
        Manifest.from_text(text)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)


@given(st.data(), json_values)
@settings(max_examples=150, deadline=None)
def test_one_value_replaced_is_read_or_refused_but_never_a_crash(
    data: st.DataObject, value: object
) -> None:
    plain = json.loads(SAMPLE.read_text())
    place = plain
    while True:
        keys = sorted(place) if isinstance(place, dict) else list(range(len(place)))
        key = data.draw(st.sampled_from(keys))
        inner = place[key]
        if not inner or not isinstance(inner, (dict, list)) or data.draw(st.booleans()):
            break
        place = inner
    place[key] = value
    try:
        manifest = Manifest.from_json(plain)
    except BundleError:
        return
    assert manifest.to_json() == plain
