"""``python -m fuzz``: files that lie, for all readers or one, for a time or a number of them.

make fuzz                           for SECONDS=60
PYTHONPATH=tests python -m fuzz --reader onnx --seed 17
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from gq_tvm.command import command, positive
from gq_tvm.errors import Error

if TYPE_CHECKING:
    from fuzz.worker import Worker

FOLDER = Path(__file__).parents[2] / "build" / "fuzz"
_WORKERS = 2
_USUAL = 60  # seconds
_SHOWN = 3000  # characters of an account


@command
def main(argv: list[str] | None = None) -> int:
    """Run the command; see ``--help``."""
    started = time.monotonic()
    options = _parser().parse_args(argv)
    from fuzz.readers import READERS
    from fuzz.worker import Worker

    wanted = options.reader or list(READERS)
    for name in wanted:
        if name not in READERS:
            raise Error(f"there is no reader {name}; choose from {', '.join(READERS)}")
    one = options.seed is not None and not options.count and not options.seconds
    count = 1 if one else options.count
    first = random.SystemRandom().randrange(10**9) if options.seed is None else options.seed
    print(f"the first seed is {first}", flush=True)
    shutil.rmtree(FOLDER, ignore_errors=True)
    workers = [Worker(READERS[name], FOLDER / name, first, count, 0) for name in wanted]
    for worker in workers:
        worker.prepare()
    shares = sum(worker.reader.share for worker in workers)
    seconds = options.seconds or _USUAL
    total = max(seconds - (time.monotonic() - started), seconds / 2)  # what preparing left
    for worker in workers:
        worker.seconds = total * min(_WORKERS, len(workers)) * worker.reader.share / shares
    _run_all(sorted(workers, key=lambda one: -one.reader.share))
    for worker in workers:
        print(f"{worker.reader.name}: {worker.done} files")
    return 1 if any(worker.faults for worker in workers) else 0


def _run_all(waiting: list[Worker]) -> None:
    """Run workers, so many at once."""
    running = dict[int, "Worker"]()
    while waiting or running:
        while waiting and len(running) < _WORKERS:
            worker = waiting.pop(0)
            running[worker.start()] = worker
        number, status = os.wait()
        worker = running.pop(number)
        if not worker.ended(status):
            waiting.insert(0, worker)
            continue
        for kind, (seed, fault) in worker.faults.items():
            name = worker.reader.name
            print(
                f"\n{name}: {kind}; again: PYTHONPATH=tests python -m fuzz --reader {name} "
                f"--seed {seed}; what it read is {worker.folder / f'{seed}-{worker.reader.file}'}"
            )
            print(fault.account[-_SHOWN:], flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m fuzz",
        description="Give readers files that lie: each must take or refuse it, in a sentence.",
    )
    parser.add_argument("--reader", action="append", metavar="NAME", help="this one alone")
    parser.add_argument("--seed", type=int, metavar="N", help="the first; alone: no other")
    parser.add_argument("--count", type=positive, metavar="N", help="files for each reader")
    parser.add_argument("--seconds", type=positive, metavar="S", help="for all (60)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
