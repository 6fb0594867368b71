"""Time whole models against ONNX Runtime; started again it goes on where it stopped.

    pip install --no-deps transformers torchvision ...
    python -m benchmarks.whole_models

One result file for each goes to the folder of results, then docs/whole_models.{md,json} are
written from all that are there. Take figures from a quiet machine only.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from gq_tvm.command import command, positive

_DOCS = Path(__file__).parents[2] / "docs"


@command
def main(argv: list[str] | None = None) -> int:
    """Run the command; see ``--help``."""
    options = _parser().parse_args(argv)

    from benchmarks.apart import run_apart
    from benchmarks.machine import circumstances
    from benchmarks.whole_models import report
    from benchmarks.whole_models.listed import MODELS

    results = options.work.absolute()
    results.mkdir(parents=True, exist_ok=True)
    for entry in MODELS:
        path = results / f"{entry.name}.json"
        if options.only in entry.name and not path.exists():
            arguments = [entry.name, str(path)]
            failure = run_apart("benchmarks.whole_models.work", arguments, options.seconds)
            print(time.strftime("%H:%M:%S"), entry.name, failure or "done", flush=True)
    report.write(results, options.docs, circumstances())
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.whole_models",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--work",
        default=Path("build/whole_models"),
        type=Path,
        metavar="FOLDER",
        help="results (default: %(default)s)",
    )
    parser.add_argument(
        "--docs", default=_DOCS, type=Path, metavar="FOLDER", help="where the report goes"
    )
    parser.add_argument(
        "--seconds", type=positive, default=1200, metavar="S", help="for a model (default: 1200)"
    )
    parser.add_argument(
        "--only", default="", metavar="TEXT", help="only models whose name holds this"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
