"""Train and evaluate every cell of docs/accuracy.md; started again it goes on where it stopped.

    python -m benchmarks.accuracy --recordings free-spoken-digit-dataset/recordings

One result file a cell goes to the folder of results, then docs/accuracy.{md,json} are written from
all that are there. Two processes of one thread each; see the report for how long they took.
With --after-training it is docs/accuracy_after_training.{md,json}: minutes a cell, no training.
"""

from __future__ import annotations

import argparse
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from gq_tvm.command import command, positive

_DOCS = Path(__file__).parents[2] / "docs"


@command
def main(argv: list[str] | None = None) -> int:
    """Run the command; see ``--help``."""
    options = _parser().parse_args(argv)

    from benchmarks.accuracy import after_training, cells, report, work
    from benchmarks.accuracy.data import Data
    from benchmarks.machine import circumstances

    data = Data(options.recordings.absolute(), options.work.absolute())
    page = after_training if options.after_training else report
    every = cells.cells_after_training() if options.after_training else cells.cells()
    chosen = [cell for cell in every if options.only in cell.name]
    seeds = () if options.after_training else cells.SEEDS
    with ProcessPoolExecutor(options.workers, initializer=work.one_thread) as pool:
        for stage, items in (
            (work.prepare_data, [0]),
            (work.prepare_base, dict.fromkeys(cell.network for cell in chosen)),
            (work.prepare_batches, seeds),
            (work.train, chosen),
            (work.verify, [cell for cell in chosen if cell.deployed]),
        ):
            for line in pool.map(stage, [data] * len(items), items):
                if line:
                    print(time.strftime("%H:%M:%S"), line, flush=True)
    page.write(data, options.docs, circumstances())
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accuracy",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--recordings",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="Free Spoken Digit Dataset: DIGIT_SPEAKER_TAKE.wav",
    )
    parser.add_argument(
        "--work",
        type=Path,
        default=Path("build/accuracy"),
        metavar="FOLDER",
        help="results, checkpoints and batches (default: %(default)s)",
    )
    parser.add_argument(
        "--docs", type=Path, default=_DOCS, metavar="FOLDER", help="where the report goes"
    )
    parser.add_argument(
        "--workers", type=positive, default=2, metavar="N", help="processes (default: 2)"
    )
    parser.add_argument(
        "--after-training", action="store_true", help="what compresses without further training"
    )
    parser.add_argument(
        "--only", default="", metavar="TEXT", help="only cells whose name holds this"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
