"""Compress trained networks every way, measure each; started again it goes on where it stopped.

    python -m benchmarks.compression --recordings free-spoken-digit-dataset/recordings

One result file a cell goes to the folder of results, then docs/compression.{md,json} are written
from all that are there. A network whose recordings are not given is left out.
"""

from __future__ import annotations

import argparse
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from gq_tvm.command import command, positive

_DOCS = Path(__file__).parents[2] / "docs"


@command
def main(argv: list[str] | None = None) -> int:
    """Run the command; see ``--help``."""
    options = _parser().parse_args(argv)

    from benchmarks.compression import cells, report, work
    from benchmarks.compression.models import MODELS, Folders
    from benchmarks.machine import circumstances

    folders = Folders(options.recordings, options.work.absolute())
    setting = work.Setting(folders, options.python)
    names = tuple(name for name, model in MODELS.items() if model(folders).given)
    chosen = [cell for cell in cells.cells(names) if options.only in cell.name]
    if not options.report:
        used = sorted({cell.model for cell in chosen}, key=names.index)
        with ProcessPoolExecutor(options.workers, initializer=work.one_thread) as pool:
            rivals = {(c.model, cells.METHODS[c.method].rival): None for c in chosen}
            for stage, items in (
                (work.prepare, used),
                (work.round_rivals, [item for item in rivals if item[1]]),
                (work.measure, chosen),
            ):
                for line in pool.map(stage, [setting] * len(items), items):
                    if line:
                        print(time.strftime("%H:%M:%S"), line, flush=True)
    report.write(folders, options.docs, circumstances())
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compression",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    folder: dict[str, Any] = {"type": Path, "metavar": "FOLDER"}
    parser.add_argument(
        "--recordings", **folder, help="Free Spoken Digit Dataset: DIGIT_SPEAKER_TAKE.wav"
    )
    parser.add_argument(
        "--work",
        default=Path("build/compression"),
        **folder,
        help="results and what is made once (default: %(default)s)",
    )
    parser.add_argument("--docs", default=_DOCS, **folder, help="where the report goes")
    parser.add_argument(
        "--workers", type=positive, default=2, metavar="N", help="processes (default: 2)"
    )
    parser.add_argument(
        "--python",
        default=sys.executable,
        metavar="PYTHON",
        help="the Python with the rivals (default: this one)",
    )
    parser.add_argument(
        "--only", default="", metavar="TEXT", help="only cells whose name holds this"
    )
    parser.add_argument("--report", action="store_true", help="measure nothing, write the report")
    return parser


if __name__ == "__main__":
    sys.exit(main())
