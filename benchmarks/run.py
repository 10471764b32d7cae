"""Run the benchmarks and store what they measured.

    python benchmarks/run.py [mixture k_means ...]

Without names all of them run. Each one writes ``nfbook/data/results/NAME.json`` through
``nfbook.data.record`` and, made from that file, a table and perhaps a plot in
``benchmarks/results/``. Random numbers come from seed 0 unless a module names its ``SEEDS``.
``--render`` makes tables and plots anew without measuring.
"""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import matplotlib
import matplotlib.pyplot as plt

from nfbook.data import record

ROOT = Path(__file__).resolve().parent.parent
STORE = ROOT / "nfbook" / "data" / "results"
SHOWN = ROOT / "benchmarks" / "results"

# In the order of the page that shows them.
NAMES = (
    "mixture",
    "k_means",
    "kmeans_growth",
    "ppca",
    "growth",
    "streaming",
    "determinants",
    "planar",
    "objectives",
    "flow_training",
    "maf_sampling",
    "directions",
    "flow_costs",
    "matching_costs",
    "flow_failures",
    "table_flows",
    "digits_flows",
    "bridge",
    "vae_step",
    "vae_growth",
    "image_loaders",
    "encoders",
    "nf_vae",
)
PACKAGES = ("torch", "numpy", "scikit-learn")


def run(name: str) -> None:
    """Measure, and store the result beside what made it."""
    module = import_module(name)
    print(f"{name}: {module.TITLE}", flush=True)
    stored = record(
        name,
        module.measure,
        title=module.TITLE,
        command=f"python benchmarks/run.py {name}",
        settings=module.SETTINGS,
        seeds=getattr(module, "SEEDS", [0]),
        packages=(*PACKAGES, *getattr(module, "PEERS", ())),
        folder=STORE,
    )
    render(name, stored, module)
    print(module.table(stored["result"]), flush=True)


def render(name: str, stored: dict[str, Any], module: ModuleType) -> None:
    """Make table and plot from the stored result."""
    in_words = getattr(module, "in_words", _settings)
    settings = f"Settings: {in_words(stored['settings'])}."
    parts = [f"## {stored['title']}", settings, module.table(stored["result"])]
    if hasattr(module, "plot"):
        figure = module.plot(stored["result"])
        figure.savefig(SHOWN / f"{name}.png", metadata={"Software": None})
        plt.close(figure)
        parts.append(f"![{module.ALT}]({name}.png)")
    parts.append(f"Measured on {stored['machine']}, with {stored['versions']}.")
    (SHOWN / f"{name}.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _settings(settings: dict[str, Any]) -> str:
    values = {k: v if isinstance(v, list) else [v] for k, v in settings.items()}
    return "; ".join(f"{k} = {', '.join(map(_number, v))}" for k, v in values.items())


def _number(value: Any) -> str:
    """Return a setting as the tables show it, with separators in large whole numbers."""
    return f"{value:,}" if isinstance(value, int) else str(value)


def main(arguments: list[str]) -> int:
    """Run or render the benchmarks named, or all."""
    matplotlib.use("agg")
    only_render = "--render" in arguments
    names = [a for a in arguments if a != "--render"] or list(NAMES)
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        print(f"no such benchmark: {unknown[0]}; there are {', '.join(NAMES)}", file=sys.stderr)
        return 2
    for folder in (STORE, SHOWN):
        folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        if only_render:
            stored = json.loads((STORE / f"{name}.json").read_text(encoding="utf-8"))
            render(name, stored, import_module(name))
        else:
            run(name)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
