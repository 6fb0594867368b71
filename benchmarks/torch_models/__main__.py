"""Take models of other packages all the way; started again it goes on where it stopped.

    pip install --no-deps transformers timm torchvision ...
    python -m benchmarks.torch_models

One result file for each goes to the folder of results, then docs/torch_models.{md,json} are written
from all that are there. torchaudio does not import beside PyTorch for CPUs, and transformers does
not beside it: unpack its wheel into a folder of its own and give that as --unpacked.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.apart import run_apart
from gq_tvm.command import command, positive

_DOCS = Path(__file__).parents[2] / "docs"


@command
def main(argv: list[str] | None = None) -> int:
    """Run the command; see ``--help``."""
    options = _parser().parse_args(argv)

    from benchmarks.machine import circumstances
    from benchmarks.torch_models import report
    from benchmarks.torch_models.listed import ROWS

    results = options.work.absolute() / "results"
    results.mkdir(parents=True, exist_ok=True)
    for row in ROWS:
        path = results / f"{report.file_name(row)}.json"
        if options.only in row.name and not path.exists():
            ended = _measured(row.name, path, options)
            said = report.read(results)[row] if not ended else {}
            told = ended or said.get("failed") or f"error {said['error']:.1e}"
            print(time.strftime("%H:%M:%S"), f"{row.name}: {told}", flush=True)
    report.write(results, options.docs, circumstances())
    return 0


def _measured(name: str, path: Path, options: argparse.Namespace) -> str:
    """Measure a model in a process of its own; what ended that without a result, or nothing."""
    arguments = [name, str(path)]
    if options.unpacked:
        arguments.append(str(options.unpacked.absolute()))
    return run_apart("benchmarks.torch_models.work", arguments, options.seconds)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.torch_models",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    folder: dict[str, Any] = {"type": Path, "metavar": "FOLDER"}
    parser.add_argument("--unpacked", **folder, help="where the wheel of torchaudio is unpacked")
    parser.add_argument(
        "--work",
        default=Path("build/torch_models"),
        **folder,
        help="for results (default: %(default)s)",
    )
    parser.add_argument("--docs", default=_DOCS, **folder, help="where the report goes")
    parser.add_argument(
        "--seconds", type=positive, default=900, metavar="S", help="for a model (default: 900)"
    )
    parser.add_argument(
        "--only", default="", metavar="TEXT", help="only models whose name holds this"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
