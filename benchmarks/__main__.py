"""``python -m benchmarks``: measure, write the figures, write docs/performance.md."""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from pathlib import Path

from benchmarks import ceilings, machine, ours, peers
from benchmarks.harness import Harness
from benchmarks.native import flusher
from benchmarks.report import write_report
from benchmarks.results import Results, key
from benchmarks.suite import Suite, described, held
from gq_tvm.command import command
from gq_tvm.errors import Error

_DOCS = Path(__file__).parents[1] / "docs"


@command
def main(argv: list[str] | None = None) -> int:
    """Run the command; see ``--help``."""
    options = _parser().parse_args(argv)
    here = machine.describe()
    results = Results.load(options.out) if options.out.exists() else Results(here)
    for path in options.merge:
        results.merge(Results.load(path))
        results.save(options.out)
    if not options.report_only:
        if results.machine["cpu"] != here["cpu"]:
            raise Error(
                f"{options.out} holds figures of another machine ({results.machine['cpu']}); name "
                "another file with --out, or remove it"
            )
        _measure(options, results)
    write_report(results, options.report)
    print(f"wrote {options.report} from {options.out}")
    return 0


def _measure(options: argparse.Namespace, results: Results) -> None:
    started = time.monotonic()
    chosen = options.layers or options.models or options.ceilings
    if options.ceilings or not chosen:
        for threads in options.threads:
            print(f"ceilings, {threads} threads")
            with held(options.lock):
                results.ceilings[str(threads)] = ceilings.measure(threads, _say)
        results.save(options.out)
    suite = Suite(
        options.threads,
        layers=options.layers or not chosen,
        models=options.models or not chosen,
        quick=options.quick,
        systems=options.systems,
        lock=options.lock,
    )
    wanted = [
        problem
        for problem in suite.problems()
        if re.search(options.only, problem.name)
        and not (options.resume and key(described(problem)) in results.figures)
    ]
    harness = Harness(flusher())
    for number, problem in enumerate(wanted, 1):
        elapsed = time.monotonic() - started
        print(f"[{number}/{len(wanted)}, {elapsed:.0f} s] {key(described(problem))}", flush=True)
        figures = suite.measure(problem, harness, _say)
        results.add(figures)
        results.save(options.out)
        for label, why in figures.absent.items():
            print(f"  absent: {label}: {why}")
        best = sorted(figures.rows, key=lambda row: row.timing.hot_min)[:5]
        shown = (f"{row.label} {row.timing.hot_min:.1f}" for row in best)
        print(f"  {len(figures.rows)} rows; hot us: {', '.join(shown)}", flush=True)


def _say(line: str) -> None:
    if sys.stdout.isatty():
        print(f"  {line[:76]:76}", end="\r", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Time gq-tvm and what one would use instead, and write docs/performance.md.",
        epilog="Each problem replaces its earlier figures in the file; without any of --layers, "
        "--models and --ceilings all three are measured.",
    )
    parser.add_argument("--layers", action="store_true", help="measure linear layers")
    parser.add_argument("--models", action="store_true", help="measure whole models")
    parser.add_argument("--ceilings", action="store_true", help="measure the machine's ceilings")
    cores = len(os.sched_getaffinity(0))
    parser.add_argument(
        "--threads", type=int, nargs="+", default=[1, 2][:cores], choices=range(1, cores + 1),
        metavar="N", help="numbers of threads (%(default)s)",
    )  # fmt: skip
    parser.add_argument("--only", metavar="REGEX", default="", help="problems with such names")
    parser.add_argument(
        "--systems",
        nargs="+",
        metavar="NAME",
        choices=[ours.SYSTEM, *peers.SYSTEMS],
        default=[ours.SYSTEM, *peers.SYSTEMS],
        help=f"who takes part: {', '.join([ours.SYSTEM, *peers.SYSTEMS])}",
    )
    parser.add_argument(
        "--quick", action="store_true", help="two layers, the smallest model, few rounds"
    )
    parser.add_argument(
        "--resume", action="store_true", help="leave out problems the file has figures of"
    )
    parser.add_argument(
        "--merge", type=Path, metavar="FILE", nargs="+", default=[],
        help="add the figures of other files first",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=Path, default=_DOCS / "performance.json", help="the figures (%(default)s)"
    )
    parser.add_argument(
        "--report", type=Path, default=_DOCS / "performance.md", help="the tables (%(default)s)"
    )
    parser.add_argument("--report-only", action="store_true", help="measure nothing")
    parser.add_argument(
        "--lock", type=Path, metavar="FILE", help="lock FILE while figures are taken"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
