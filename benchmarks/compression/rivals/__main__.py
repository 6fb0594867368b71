"""One rival on one file of layers, in as many variants as are asked for.

``python -m benchmarks.compression.rivals NAME LAYERS VARIANT=TARGET ...``; a variant that the rival
refuses leaves one line in ``TARGET.txt``.
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

from benchmarks.compression.rivals import exchange


def main(name: str, source: str, *wanted: str) -> None:
    """Import only what the rival needs."""
    targets = dict(one.split("=", 1) for one in wanted)
    try:
        module = importlib.import_module(f"benchmarks.compression.rivals.{name}")
    except ImportError as missing:
        for target in targets.values():
            _refuse(target, f"the package {missing.name} is not installed")
        return
    rival: exchange.Rival = module.rounded
    layers = exchange.read(source)
    for variant, target in targets.items():
        try:
            rounded = {layer.name: rival(layer, variant) for layer in layers}
        except Exception as refusal:
            _refuse(target, f"{type(refusal).__name__}: {refusal}")
        else:
            exchange.write_rounded(f"{target}.part.npz", rounded)
            os.replace(f"{target}.part.npz", target)
            print(variant, flush=True)


def _refuse(target: str, why: str) -> None:
    Path(f"{target}.txt").write_text(why.splitlines()[0][:200] + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
