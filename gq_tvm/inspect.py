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
from gq_tvm.plan.plan import Function, Plan, Tensor
from gq_tvm.runtime.artefact.folder import KERNELS, check_files, read
from gq_tvm.runtime.artefact.manifest import Manifest


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
    manifest, plan = read(options.artefact)
    check_files(options.artefact, plan)
    if options.json:
        print(json.dumps(_as_json(manifest, plan, options.artefact), indent=2))
    else:
        print(report(manifest, plan))
    return 0


def report(manifest: Manifest, plan: Plan) -> str:
    """The table of layers, the functions and the totals, as text."""
    needs = ", ".join(plan.features) or "no CPU feature"
    threads = f", {manifest.threads} threads" if manifest.threads > 1 else ", 1 thread"
    lines = [f"target {manifest.target} ({plan.machine}; needs {needs}){threads}"]
    if plan.runtime:
        lines.append(f"runs by TVM's runtime, whose {', '.join(plan.runtime)} the kernels call")
    lines.append("")
    for name, function in plan.functions.items():
        inputs = ", ".join(map(str, function.inputs))
        outputs = ", ".join(map(str, function.outputs))
        lines += [f"{name}({inputs})", f"    -> {outputs}"]
    return "\n".join([*lines, "", layer_table(plan), "", summary(plan)])


def layer_table(plan: Plan) -> str:
    """A row for each layer: what it is, how large, which kernel computes it and why that."""
    total = totals(plan)["parameters"]
    heads = ("layer", "kind", "shape", "bits", "activation", "kernel", "bytes", "share")
    rows = [(*heads, "chosen by", "schedule")]
    for layer in plan.layers:
        owner, size = plan.owners.get(layer), plan.bytes_of(layer.parameters)
        rows.append(
            (
                layer.name,
                layer.kind,
                "x".join(map(str, layer.shape)),
                str(layer.bits),
                layer.activation,
                layer.kernel,
                f"= {owner}" if owner else f"{size:,}",
                "" if owner else f"{size / total:.1%}",
                layer.origin,
                layer.schedule,
            )
        )
    return columns(rows, right={3, 6, 7})


def summary(plan: Plan) -> str:
    """One line on the size of the weights."""
    sums = totals(plan)
    packed = sums["codebook"]
    if not plan.layers:
        return f"no codebook layers; parameters {sums['parameters']:,} bytes"
    return (
        f"{len(plan.layers)} codebook layers in {packed:,} bytes: "
        f"{packed / sums['fp32']:.1%} of fp32 ({sums['fp32']:,}), "
        f"{packed / sums['int8']:.1%} of int8 ({sums['int8']:,}); "
        f"other parameters {sums['parameters'] - packed:,} bytes"
    )


def totals(plan: Plan) -> dict[str, int]:
    """Bytes of the codebook layers (tied ones once), of the same weights otherwise, and of all.

    Returns:
        ``codebook`` (packed weights with their tables and scales), ``fp32`` and ``int8`` (the same
        weights at four bytes and one byte each) and ``parameters`` (everything in the file).
    """
    own = [layer for layer in plan.layers if layer not in plan.owners]
    weights = sum(prod(layer.shape) for layer in own)
    return {
        "codebook": plan.bytes_of({name for layer in own for name in layer.parameters}),
        "fp32": 4 * weights,
        "int8": weights,
        "parameters": plan.bytes_of(plan.parameter_bytes),
    }


def _as_json(manifest: Manifest, plan: Plan, path: str) -> dict[str, Any]:
    sums = totals(plan)
    layers = []
    for layer in plan.layers:
        owner, size = plan.owners.get(layer), plan.bytes_of(layer.parameters)
        facts = {"bytes": size, "float_bytes": layer.float_bytes, "tied_to": owner}
        share = 0.0 if owner else size / sums["parameters"]
        layers.append({**dataclasses.asdict(layer), **facts, "share": share})
    return {
        "target": {
            "name": manifest.target,
            "machine": plan.machine,
            "features": plan.features,
        },
        "threads": manifest.threads,
        "runtime": plan.runtime,
        "functions": {name: _function(one) for name, one in plan.functions.items()},
        "layers": layers,
        "totals": {**sums, "code": (Path(path) / KERNELS).stat().st_size},
        "metadata": manifest.metadata,
        "versions": manifest.versions,
    }


def _function(function: Function) -> dict[str, Any]:
    """What a function takes and returns, and the kernels it calls."""
    return {
        "inputs": list(map(_tensor, function.inputs)),
        "outputs": list(map(_tensor, function.outputs)),
        "bounds": {name: [one.least, one.most] for name, one in function.sizes.items()},
        "calls": [{"kernel": one.kernel, "layer": one.layer} for one in function.calls],
    }


def _tensor(tensor: Tensor) -> dict[str, Any]:
    shape = [one if isinstance(one, int) else str(one) for one in tensor.shape]
    return {"name": tensor.name, "dtype": tensor.dtype, "shape": shape}


if __name__ == "__main__":
    sys.exit(main())
