"""Write docs/models.md from what the family tests found.

The tests leave their results in pytest's cache. Run them, then this:

    python -m pytest tests/families -m "not slow"  # the modules of every family, in PyTorch
    python -m pytest tests/families -m slow        # exported: ONNX Runtime, TensorRT's builder
    python benchmarks/models_table.py
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
CACHE = ROOT / ".pytest_cache/v/sparsevlm"
PAGE = ROOT / "docs/models.md"
CASES = ("image", "tall image", "images", "video", "text")
TOOLS = ("transformers", "torch", "onnxruntime")
NOT_RUN = "not run"


def main() -> None:
    """Read the cache, write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, default=CACHE, help="Where the results are.")
    parser.add_argument("--json", action="store_true", help="Print the results, write nothing.")
    options = parser.parse_args()
    found = {path.name: json.loads(path.read_text()) for path in sorted(options.cache.iterdir())}
    if options.json:
        print(json.dumps(found, indent=1, sort_keys=True))
        return
    PAGE.write_text(page(found))


def page(found: dict[str, dict[str, Any]]) -> str:
    """Spell the results as a page."""
    versions = ", ".join(f"{tool} {metadata.version(tool)}" for tool in TOOLS)
    lines = [
        "# Models and what was tested of them",
        "",
        "Written by `benchmarks/models_table.py` from results of `tests/families`: tiny random",
        "checkpoints of transformers' own classes. A number is the largest difference of a logit,",
        "float32, over the prompt and 16 greedy tokens, unpruned against transformers and pruned",
        "against our PyTorch reference; all tokens and all kept sets were equal. The columns by",
        "kind of prompt run the family's modules in PyTorch; *exported* runs all of them in ONNX",
        "Runtime; *TensorRT* is the builder on float16 towers, embeddings, stages and heads. A",
        f"dash: the family has no such prompt. {versions}; {platform.machine()}.",
        "",
        f"| family | {' | '.join(CASES)} | exported | TensorRT |",
        f"|---|{'---|' * (len(CASES) + 2)}",
    ]
    for family, results in found.items():
        cells = [spelled(results.get(case)) for case in CASES]
        exported = [results.get(f"onnx {case}") for case in CASES if case in results]
        cells.append(f"{worst(exported):.0e}" if all(exported) else NOT_RUN)
        cells.append("built" if results.get("tensorrt", {}).get("built") else NOT_RUN)
        lines.append(f"| `{family}` | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def spelled(result: dict[str, Any] | None) -> str:
    """One cell."""
    return "-" if result is None else f"{result['error']:.0e}"


def worst(results: Iterable[dict[str, Any]]) -> float:
    """The largest error."""
    return max(float(result["error"]) for result in results)


if __name__ == "__main__":
    main()
