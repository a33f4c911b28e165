import subprocess
import sys

import pytest

import sparsevlm_ops


def test_importing_the_package_loads_no_torch():
    program = (
        "import sys, sparsevlm_ops, sparsevlm_ops.schedule, sparsevlm_ops.methods; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_every_public_name_is_there():
    for name in sparsevlm_ops.__all__:
        assert getattr(sparsevlm_ops, name) is not None


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="nothing_such"):
        sparsevlm_ops.nothing_such  # noqa: B018
