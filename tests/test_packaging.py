"""What an install contains, and what the base install can do without PyTorch."""

from __future__ import annotations

import configparser
import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = {
    "calibration": "sparsevlm_trt.calibration",
    "export": "sparsevlm_trt.export",
    "runtime": "sparsevlm_trt.runtime",
    "sparsevlm_ops": "sparsevlm_ops",
}
HEAVY = ("torch", "transformers", "onnx", "onnxscript")

# Loads a bundle and answers, and says what it imported on the way.
ANSWER = """
import sys, time
from PIL import Image
started = time.perf_counter()
from sparsevlm_trt.runtime import Session
took = time.perf_counter() - started
with Session.load(sys.argv[1]) as session:
    content = [{"type": "image"}, {"type": "text", "text": "what is it"}]
    result = session.generate(
        images=[Image.new("RGB", (60, 70), "red")],
        messages=[{"role": "user", "content": content}],
        max_new_tokens=4,
    )
assert len(result.tokens) >= 1
heavy = [name for name in ("torch", "transformers", "onnx", "onnxscript") if name in sys.modules]
assert not heavy, heavy
print(took)
"""


def setup_cfg() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(ROOT / "setup.cfg")
    return parser


def test_every_package_on_disk_is_shipped():
    on_disk = {
        ".".join([ROOMS[room], *init.parent.relative_to(ROOT / room).parts])
        for room in ROOMS
        for init in (ROOT / room).rglob("__init__.py")
    }
    shipped = set(setup_cfg()["options"]["packages"].split())
    assert shipped == on_disk


def test_base_install_names_no_heavy_package():
    required = setup_cfg()["options"]["install_requires"].lower()
    names = {line.split(">")[0].strip() for line in required.splitlines() if line.strip()}
    assert names.isdisjoint(HEAVY)


def test_runtime_imports_within_half_a_second():
    code = (
        "import onnxruntime, numpy, time; s = time.perf_counter();"
        "import sparsevlm_trt.runtime; print(time.perf_counter() - s)"
    )
    # The best of three: the bar is about our code, not about a busy machine.
    times = [
        float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout)
        for _ in range(3)
    ]
    assert min(times) < 0.5


@pytest.fixture(scope="module")
def base_install(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python of an environment that holds the wheel and what it requires, nothing more."""
    folder = tmp_path_factory.mktemp("base")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(folder)]
    built = subprocess.run([*build, str(ROOT)], check=False, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv" / "bin" / "python"
    wheel = next(folder.glob("*.whl"))
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run([*install, str(wheel)], check=False, capture_output=True, text=True)
    if done.returncode and "No matching distribution" in done.stderr:
        pytest.skip("needs a package index to install the base requirements from")
    assert done.returncode == 0, done.stderr
    return python


def run(python: Path, *args: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run in a folder that is not the checkout, so that nothing is found by accident."""
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    return subprocess.run(
        [str(python), *args], check=False, capture_output=True, text=True, cwd=cwd, env=env
    )


def test_base_install_answers_without_torch(base_install, bundle_of, tmp_path):
    done = run(base_install, "-c", ANSWER, str(bundle_of("llava-llama")), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for package in ("torch", "transformers", "onnx"):
        assert run(base_install, "-c", f"import {package}", cwd=tmp_path).returncode != 0


def test_base_install_command_line(base_install, bundle_of, tmp_path):
    command = base_install.parent / "sparsevlm"
    bundle = str(bundle_of("llava-llama"))
    shown = run(base_install, str(command), "inspect", bundle, "--json", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    refused = run(base_install, str(command), "export", "a", "b", cwd=tmp_path)
    assert refused.returncode != 0
    assert "sparsevlm-trt[export]" in refused.stderr
    assert "Traceback" not in refused.stderr
