"""``python -m gq_tvm.profile``: where the time goes, and bytes, against other artefacts."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from gq_tvm import files
from gq_tvm.command import command, positive
from gq_tvm.errors import Error
from gq_tvm.runtime.artefact.manifest import Manifest
from gq_tvm.runtime.devices.placement import add_device_options, chosen_device, emulates


@command
def main(argv: list[str] | None = None) -> int:
    """Run the command; see ``--help``."""
    options = _parser().parse_args(argv)
    from gq_tvm.runtime import load
    from gq_tvm.runtime.artefact.folder import read
    from gq_tvm.runtime.profiling import compare

    with ExitStack() as stack:
        manifest, _ = read(options.artefact)
        paths = {Path(options.artefact).name: options.artefact}
        for other in options.against:
            label, path = _artefact(other, manifest, stack)
            paths[label if label not in paths else other] = path
        device = stack.enter_context(chosen_device(options, options.artefact))
        models = {label: load(path, device, options.threads) for label, path in paths.items()}
        for label, model in models.items():
            if not set(model.functions) & set(next(iter(models.values())).functions):
                raise Error(f"{label} has no function in common with {options.artefact}")
        profile = compare(
            models,
            rounds=options.rounds,
            frames=options.frames,
        )
        emulated = emulates(device)
    print(profile.table())
    if emulated:
        print("These are times of an emulator: they say nothing about a board.")
    if options.emulate or options.rpc:
        print("What a function calls is only timed by itself on this machine.")
    if options.json:
        result = {
            "target": manifest.target,
            "emulated": emulated,
            "timings": profile.to_json(),
        }
        files.write_text(options.json, json.dumps(result, indent=1) + "\n")
    return 0


def _artefact(other: str, manifest: Manifest, stack: ExitStack) -> tuple[str, str]:
    """An artefact to compare with; an exported program is compiled as its own fp32 baseline."""
    if Path(other).suffix != ".pt2":
        return Path(other).name, other
    if not Path(other).exists():
        raise Error(f"{other} does not exist; give the path of an artefact or of a .pt2 file")
    from gq_tvm.build import build

    folder = stack.enter_context(tempfile.TemporaryDirectory())
    path = str(Path(folder) / "fp32.gq")
    print(f"compiling {other} with fp32 weights", file=sys.stderr)
    name, threads = manifest.target, manifest.threads
    build(other, name, kernel="dense_f32", threads=threads).save(path)
    return "fp32", path


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m gq_tvm.profile",
        description="Time a compiled model: its functions, and each layer and operator they call.",
        epilog=(
            "examples:\n  python -m gq_tvm.profile digits.gq --against digits.pt2\n"
            "  python -m gq_tvm.profile new.gq --against old.gq"
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("artefact", metavar="DIR", help="a compiled model")
    parser.add_argument(
        "--against",
        metavar="OTHER",
        action="append",
        default=[],
        help="an artefact to take turns with, or the exported .pt2: compiled for the same target "
        "with fp32 weights (may be repeated)",
    )
    parser.add_argument(
        "--frames", type=positive, default=4, help="for a number of frames not fixed (%(default)s)"
    )
    parser.add_argument("--rounds", type=positive, default=5, help="turns of 60 runs (%(default)s)")
    parser.add_argument("--json", metavar="FILE", help="write the figures there as well")
    add_device_options(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
