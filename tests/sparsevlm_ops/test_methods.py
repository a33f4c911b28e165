import pytest

from sparsevlm_ops.methods import METHODS, get_method


def test_a_method_is_found_by_its_name():
    assert all(get_method(name).name == name for name in METHODS)


def test_none_prunes_nothing():
    none = get_method("none")
    assert (none.prunes, none.uses_raters, none.recycles) == (False, False, False)


def test_an_unknown_method_is_answered_with_those_there_are():
    names = ", ".join(METHODS).replace("+", r"\+")
    with pytest.raises(ValueError, match=f"got 'fastest' .* {names}"):
        get_method("fastest")
