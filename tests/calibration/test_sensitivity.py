"""Which activations had better stay: judged by what their graph hands on, and by their size."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sparsevlm_trt.calibration.models import load_model
from sparsevlm_trt.calibration.quantize import fit_bundle, quantize_bundle
from sparsevlm_trt.calibration.samples import read_samples
from sparsevlm_trt.calibration.schemes import find_scheme
from sparsevlm_trt.calibration.sensitivity import (
    Sensitivity,
    measure_sensitivity,
    most_sensitive,
)
from sparsevlm_trt.calibration.sites import find_sites
from sparsevlm_trt.runtime.bundle import Bundle
from sparsevlm_trt.runtime.errors import InputError


def test_a_small_site_is_left_before_a_large_one_that_moves_as_much():
    found = [
        Sensitivity("head", 4.0, 1000, 1),
        Sensitivity("b", 1.0, 10, 1),
        Sensitivity("a", 1.0, 10, 1),
        Sensitivity("still", 0.0, 1, 3),
    ]
    assert most_sensitive(found, 3) == ("a", "b", "head")
    assert most_sensitive(found, 0) == ()


def test_a_site_that_more_decisions_follow_is_left_first():
    found = [Sensitivity("late", 2.0, 10, 1), Sensitivity("early", 1.0, 10, 3)]
    assert most_sensitive(found, 1) == ("early",)


def test_decisions_are_counted_from_the_graph_on(source, samples):
    found = measure_sensitivity(source, fits_of(source, samples), find_scheme("int8"), samples)
    follow = {site.name.split("/")[0]: site.num_decisions for site in found}
    # Two boundaries cut the tiny model into three stages.
    expected = {"vision": 3, "stage_0": 3, "stage_1": 2, "stage_2": 1, "head": 1}
    assert follow == expected


@pytest.fixture(scope="module")
def samples(questions):
    return read_samples(questions)


@pytest.fixture(scope="module")
def source(bundle_of):
    return Bundle.open(bundle_of("llava-llama"), verify=False)


def fits_of(source, samples):
    return dict(fit_bundle(source, find_scheme("int8"), samples, budgets=()).fits)


def test_a_site_that_is_rounded_badly_is_found(source, samples):
    scheme, fits = find_scheme("int8"), fits_of(source, samples)
    worst = "stage_1/layers.2.self_attn.o_proj/MatMul"
    before = {site.name: site for site in measure_sensitivity(source, fits, scheme, samples)}
    assert set(before) == set(fits)
    assert all(site.moved > 0 for site in before.values())
    # A scale so large that every value becomes 0: the product is gone.
    fits[worst] = replace(fits[worst], scale=1e6, by_row=False)
    after = measure_sensitivity(source, fits, scheme, samples)
    assert most_sensitive(after, 1) == (worst,)
    assert {s.name for s in after if s.moved != before[s.name].moved} == {worst}


def test_what_is_kept_is_named_and_stays_as_it_was(source, samples, tmp_path):
    made = Bundle.open(
        quantize_bundle(source, tmp_path / "kept", find_scheme("int8"), samples, num_kept=2)
    )
    quantization = made.manifest.quantization
    assert quantization is not None
    assert len(quantization.kept_sites) == 2
    floats = {
        site.name
        for graph in made.manifest.graphs
        for site in find_sites(graph, load_model(made, graph))
    }
    assert floats & set(fits_of(source, samples)) == set(quantization.kept_sites)


def test_whole_graphs_stay_as_they_were(source, samples, tmp_path):
    scheme, kept = find_scheme("int8"), ("vision", "stage_0", "embed")
    out = quantize_bundle(source, tmp_path / "kept", scheme, samples, kept_graphs=kept)
    made = Bundle.open(out)
    for graph in kept:
        assert made.manifest.graphs[graph].sha256 == source.manifest.graphs[graph].sha256
    assert made.manifest.graphs["stage_1"].sha256 != source.manifest.graphs["stage_1"].sha256
    quantization = made.manifest.quantization
    assert quantization is not None
    assert {name.partition("/")[0] for name in quantization.kept_sites} == {"vision", "stage_0"}


def test_a_graph_that_the_bundle_has_not_is_refused(source, samples, tmp_path):
    with pytest.raises(InputError, match=r"no graph stage_9 to keep .* stage_0"):
        quantize_bundle(
            source, tmp_path / "out", find_scheme("int8"), samples, kept_graphs=["stage_9"]
        )
    assert not (tmp_path / "out").exists()
