"""However a model is cut, the chain is the model: unpruned, and pruned by the same rule."""

import itertools

import pytest

from sparsevlm_ops.methods import METHODS
from sparsevlm_ops.rank_rule import RankRule
from sparsevlm_ops.schedule import Schedule
from sparsevlm_trt.export.parity.prompts import make_prompts
from sparsevlm_trt.export.parity.tolerances import tolerance

NUM_TOKENS = 32
CUTS = [
    cut for count in range(4) for cut in itertools.combinations(range(3), count)
]  # every way to cut four layers: (), (0,), ..., (0, 1, 2)


# The same layers under other names: three cuts in the default run, the others when there is time.
MISTRAL_CUTS = [
    cut if cut in ((), (0, 2), (0, 1, 2)) else pytest.param(cut, marks=pytest.mark.slow)
    for cut in CUTS
]


@pytest.mark.parametrize("cut", CUTS, ids=str)
def test_every_cut_of_a_llama_is_the_model(open_sides, export_cut, short_of, cut):
    check_cut(open_sides, export_cut, short_of, "llava-llama", cut)


@pytest.mark.parametrize("cut", MISTRAL_CUTS, ids=str)
def test_every_cut_of_a_mistral_is_the_model(open_sides, export_cut, short_of, cut):
    check_cut(open_sides, export_cut, short_of, "llava-mistral", cut)


def check_cut(open_sides, export_cut, short_of, kind, cut):
    sides = open_sides(export_cut(kind, cut), short_of(kind), NUM_TOKENS)
    prompt = make_prompts(sides.session, [], None, 0)[0]

    unpruned = sides.compare_unpruned(prompt)
    assert unpruned.passed
    assert unpruned.answer.num_equal == NUM_TOKENS
    assert max(unpruned.answer.prefill_error, unpruned.answer.step_error) <= 1e-4

    if cut:
        schedule = Schedule.of(dict(zip(cut, (11, 7, 4), strict=False)))
        pruned = sides.compare_pruned(prompt, "sparsevlm", schedule)
        assert pruned.passed
        assert pruned.decisions.same
        assert pruned.answer.num_equal == NUM_TOKENS


METHODS_THAT_PRUNE = [name for name, method in METHODS.items() if method.prunes]


@pytest.mark.parametrize("name", METHODS_THAT_PRUNE)
def test_every_method_is_its_reference(open_sides, export_cut, short_of, name):
    sides = open_sides(export_cut("llava-llama", (0, 2)), short_of("llava-llama"), NUM_TOKENS)
    prompt = make_prompts(sides.session, [], None, 0)[0]
    plans = [Schedule.of({0: 11, 2: 7})]
    if METHODS[name].counts == "rank":
        plans = [RankRule((2,), 1.0, 2.0), RankRule((2,), 0.0, 0.0)]  # the second keeps none
    for plan in plans:
        case = sides.compare_pruned(prompt, name, plan)
        assert case.passed
        assert case.decisions.same
        assert case.answer.num_equal == NUM_TOKENS


def test_the_bar_is_the_one_that_is_written_down():
    assert tolerance("logits", "float32").atol == 1e-4
