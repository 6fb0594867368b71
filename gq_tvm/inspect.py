"""``python -m gq_tvm.inspect``: what an artefact holds, layer by layer."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from math import prod
from pathlib import Path
from typing import Any

from gq_tvm.columns import columns
from gq_tvm.command import command
from gq_tvm.runtime.artefact import CODE, check_files, read_manifest
from gq_tvm.runtime.manifest import Manifest


@command
def main(argv: list[str] | None = None) -> int:
    """Run the command; see ``--help``."""
    parser = argparse.ArgumentParser(
        prog="python -m gq_tvm.inspect",
        description="Show the layers of an artefact: shape, bits, kernel, bytes, share.",
    )
    parser.add_argument("artefact", metavar="DIR", help="a folder that gq_tvm.compile wrote")
    parser.add_argument("--json", action="store_true", help="print it as JSON")
    options = parser.parse_args(argv)
    manifest = read_manifest(options.artefact)
    check_files(options.artefact, manifest)
    if options.json:
        print(json.dumps(_as_json(manifest, options.artefact), indent=2))
    else:
        print(report(manifest))
    return 0


def report(manifest: Manifest) -> str:
    """The table of layers, the functions and the totals, as text."""
    target = manifest.target
    needs = ", ".join(target["features"]) or "no CPU feature"
    threads = f", {manifest.threads} threads" if manifest.threads > 1 else ", 1 thread"
    lines = [f"target {target['name']} ({target['machine']}; needs {needs}){threads}", ""]
    for name, function in manifest.functions.items():
        inputs = ", ".join(map(str, function.inputs))
        outputs = ", ".join(map(str, function.outputs))
        lines += [f"{name}({inputs})", f"    -> {outputs}"]
    return "\n".join([*lines, "", layer_table(manifest), "", summary(manifest)])


def layer_table(manifest: Manifest) -> str:
    """A row for each layer: what it is, how large, which kernel computes it and why that."""
    total = totals(manifest)["parameters"]
    heads = ("layer", "kind", "shape", "bits", "activation", "kernel", "bytes", "share")
    rows = [(*heads, "chosen by", "schedule")]
    for layer in manifest.layers:
        tied = layer.tied_to is not None
        rows.append(
            (
                layer.name,
                layer.kind,
                "x".join(map(str, layer.shape)),
                str(layer.bits),
                layer.activation,
                layer.kernel,
                f"= {layer.tied_to}" if tied else f"{layer.bytes:,}",
                "" if tied else f"{layer.bytes / total:.1%}",
                layer.origin,
                layer.schedule,
            )
        )
    return columns(rows, right={3, 6, 7})


def summary(manifest: Manifest) -> str:
    """One line on the size of the weights."""
    sums = totals(manifest)
    packed = sums["codebook"]
    return (
        f"{len(manifest.layers)} codebook layers in {packed:,} bytes: "
        f"{packed / sums['fp32']:.1%} of fp32 ({sums['fp32']:,}), "
        f"{packed / sums['int8']:.1%} of int8 ({sums['int8']:,}); "
        f"other parameters {sums['parameters'] - packed:,} bytes"
    )


def totals(manifest: Manifest) -> dict[str, int]:
    """Bytes of the codebook layers (tied ones once), of the same weights otherwise, and of all.

    Returns:
        ``codebook`` (packed weights with their tables and scales), ``fp32`` and ``int8`` (the same
        weights at four bytes and one byte each) and ``parameters`` (everything in the file).
    """
    own = [layer for layer in manifest.layers if layer.tied_to is None]
    names = {name for layer in own for name in layer.parameters}
    weights = sum(prod(layer.shape) for layer in own)
    return {
        "codebook": sum(manifest.parameter_bytes[name] for name in names),
        "fp32": 4 * weights,
        "int8": weights,
        "parameters": sum(manifest.parameter_bytes.values()),
    }


def _as_json(manifest: Manifest, path: str) -> dict[str, Any]:
    sums = totals(manifest)
    layers = [
        {
            **dataclasses.asdict(layer),
            "share": 0.0 if layer.tied_to else layer.bytes / sums["parameters"],
        }
        for layer in manifest.layers
    ]
    code = Path(path) / CODE
    return {
        "target": manifest.target,
        "threads": manifest.threads,
        "functions": {
            name: dataclasses.asdict(function) for name, function in manifest.functions.items()
        },
        "layers": layers,
        "totals": {**sums, "code": code.stat().st_size if code.exists() else 0},
        "metadata": manifest.metadata,
        "versions": manifest.versions,
    }


if __name__ == "__main__":
    sys.exit(main())
