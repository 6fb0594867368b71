"""A bundle: an artefact with programs, that is copied to a device and runs there without Python."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from gq_tvm import targets
from gq_tvm.core import compiled
from gq_tvm.errors import Error
from gq_tvm.plan import recogniser
from gq_tvm.plan.plan import Plan
from gq_tvm.runtime.artefact.folder import README, Artefact, save

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
    plan, metadata = artefact.plan, artefact.manifest.metadata
    if plan.runtime:
        raise Error(
            f"the model's kernels call {plan.runtime[0]}, which TVM's runtime has and bundles have "
            "not; leave what sorts out of the model, or run it in Python"
        )
    if recogniser.is_recogniser(metadata) and not plan.metadata:
        kinds = recogniser.kinds(metadata)
        raise Error(
            f"the model wants features of kind {kinds[0]} with {kinds[1]} normalisation; "
            f"bundles compute {recogniser.FEATURES[0]} with {recogniser.FEATURES[1]} only"
        )
    target = targets.get(artefact.manifest.target)
    programs = compiled.provide(target.machine)
    # the example recognises speech
    sources = ["gq.h", "example.c"] if plan.metadata else ["gq.h"]

    def complete(folder: Path, name: str) -> None:
        for program in (compiled.RUN, compiled.LIBRARY):
            shutil.copy2(programs / program, folder / program)
        for source in sources:
            shutil.copy2(compiled.SOURCES / "interface" / source, folder / source)
        readme = _README.format(
            target=target.name,
            system=_SYSTEMS.get(target.machine, f"64-bit Linux, {target.machine}"),
            folder=name,
            run=_usual_command(plan),
            sources=" and ".join(f"`{source}`" for source in sources),
        )
        (folder / README).write_text(readme, encoding="utf-8")

    save(artefact, path, complete)


def _usual_command(plan: Plan) -> str:
    if plan.metadata:
        return "./gq-run recording.wav"
    function = next(iter(plan.functions.values()))
    inputs = " ".join(f"--input {one.name}={one.name}.npy" for one in function.inputs)
    return f"./gq-run --function {function.name} {inputs} --output y.npy"
