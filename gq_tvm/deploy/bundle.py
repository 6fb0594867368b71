"""A bundle: a folder that is copied to a device and runs there, without Python and without TVM."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import tvm

from gq_tvm import targets
from gq_tvm.deploy import native_code, plan, plan_file
from gq_tvm.errors import Error
from gq_tvm.runtime import weights
from gq_tvm.runtime.artefact import Artefact, replace_folder
from gq_tvm.toolchain.linker import export

_TASKS = ("rnnt", "ctc")  # of the decoders in native/decoding.cc

PLAN, KERNELS, WEIGHTS, README = "plan.txt", "kernels.so", "weights.safetensors", "README.md"

# What runs a program: a 64-bit kernel may carry a 32-bit system, so `uname -m` does not tell.
_SYSTEMS = {
    "aarch64": "64-bit Linux (`getconf LONG_BIT` says 64), aarch64",
    "armhf": "32-bit Linux (`getconf LONG_BIT` says 32), armhf",
}

_README = """\
# A model for {target}

Copy this folder to the device ({system}, glibc 2.27 or newer, nothing else):

    scp -r {folder} DEVICE:

Run it there, in this folder:

    {run}

`gq-run` finds the model beside itself, so that `ssh DEVICE {folder}/gq-run ...` works too.

`./gq-run --help` lists what else it does, `--profile` shows times and memory. To call the model
from a program of your own see {sources}.
"""


def write(artefact: Artefact, path: str | os.PathLike[str]) -> None:
    """Write a bundle as the folder `path`; an older one there is replaced when all is done.

    Args:
        artefact: What `gq_tvm.build` returned.
        path: The folder.

    Raises:
        Error: something else is at `path`, or the model does what a bundle cannot.
    """
    place = Path(path)
    if place.is_symlink():
        place = place.resolve()  # replace what the link means, not the link
    check_place(place)
    target = targets.get(artefact.manifest.target["name"])
    module = plan.lower(artefact.lowered, target.tvm)
    programs = native_code.provide(target.machine)
    name = place.absolute().name

    def fill(folder: Path) -> None:
        _fill(folder, artefact, module, target, programs, name)
        folder.chmod(0o755)

    replace_folder(place, fill)


def check_place(place: Path) -> None:
    """Refuse to write a bundle where something else is.

    Raises:
        Error: `place` exists, is not empty and is no bundle.
    """
    if not place.exists() or (place.is_dir() and not any(place.iterdir())):
        return
    try:
        if (place / PLAN).read_text(encoding="utf-8", errors="replace").startswith("gq-plan"):
            return
    except OSError:
        pass
    raise Error(f"{place} exists and is not a bundle; choose another place for it")


def _fill(
    folder: Path,
    artefact: Artefact,
    module: Any,
    target: targets.Target,
    programs: Path,
    name: str,
) -> None:
    manifest = artefact.manifest
    weights.write(folder / WEIGHTS, artefact.parameters)
    built = tvm.compile(plan.kernels(module), target=target.tvm)
    export(built, folder / KERNELS, target.triple, [str(programs / native_code.REPORT)])
    layers = {
        name: layer.call["layer"]
        for layer in reversed(manifest.layers)  # weights that several share are the first one's
        for name in layer.parameters
    }
    text = [
        f"machine {target.machine}",
        " ".join(["features", *sorted(target.features)]),
        plan_file.content("weights", folder / WEIGHTS),
        plan_file.content("kernels", folder / KERNELS),
        *_metadata(manifest.metadata),
        *plan.lines(module, manifest.functions, weights.offsets(folder / WEIGHTS), layers),
    ]
    (folder / PLAN).write_bytes(plan_file.sealed(text))
    for program in (native_code.RUN, native_code.LIBRARY):
        shutil.copy2(programs / program, folder / program)
    # the example recognises speech
    sources = ["gq.h", "example.c"] if _is_recogniser(manifest.metadata) else ["gq.h"]
    for source in sources:
        shutil.copy2(native_code.NATIVE / source, folder / source)
    (folder / README).write_text(
        _README.format(
            target=target.name,
            system=_SYSTEMS.get(target.machine, f"64-bit Linux, {target.machine}"),
            folder=name,
            run=_usual_command(manifest),
            sources=" and ".join(f"`{source}`" for source in sources),
        ),
        encoding="utf-8",
    )


def _usual_command(manifest: Any) -> str:
    if _is_recogniser(manifest.metadata):
        return "./gq-run recording.wav"
    name, function = next(iter(manifest.functions.items()))
    inputs = " ".join(f"--input {one.name}={one.name}.npy" for one in function.inputs)
    return f"./gq-run --function {name} {inputs} --output y.npy"


def _is_recogniser(metadata: Any) -> bool:
    return isinstance(metadata, Mapping) and metadata.get("task") in _TASKS


def _metadata(metadata: Any) -> list[str]:
    """What a recogniser needs to know, a line each: a name and its values."""
    if not _is_recogniser(metadata):
        return []
    features = metadata["features"]
    normalisation = features["normalisation"]
    kinds = features["kind"], normalisation["kind"]
    if kinds != ("log-mel", "peak-level"):
        raise Error(
            f"the model wants features of kind {kinds[0]} with {kinds[1]} normalisation; "
            "bundles compute log-mel with peak-level only"
        )
    plain = ("sample_rate", "num_mel_bins", "frame_length_ms", "frame_shift_ms")
    facts: dict[str, Sequence[Any]] = {
        "task": [metadata["task"]],
        # a lone % stands for an empty token, which would be no word of the line
        "tokens": [quote(token, safe="") or "%" for token in metadata["tokens"]],
        "chunk_frames": [metadata.get("chunk_frames", 4)],
        "lead_ms": [metadata.get("lead_ms", 0)],
        "tail_ms": [metadata.get("tail_ms", 0)],
        **{name: [features[name]] for name in (*plain, "low_hz", "high_hz", "stack")},
        **{name: normalisation[name] for name in ("mean", "deviation")},
        **{name: [normalisation[name]] for name in ("quietest", "release")},
    }
    return [" ".join(["metadata", name, *map(str, values)]) for name, values in facts.items()]
