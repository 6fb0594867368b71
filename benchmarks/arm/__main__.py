"""``python -m benchmarks.arm``: model our kernels and others' on ARM cores, write docs/arm.md."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from benchmarks import machine
from benchmarks.arm import cost, goals, ours, peers
from benchmarks.arm.candidate import INPUTS, OUTPUTS, ROWS, Candidate
from benchmarks.arm.peers.library import Library
from benchmarks.arm.report import write_report
from benchmarks.arm.results import Results, Row
from benchmarks.suite import reason
from gq_tvm import targets
from gq_tvm.command import command, positive
from gq_tvm.errors import Error
from gq_tvm.targets import Target

_DOCS = Path(__file__).parents[2] / "docs"
_CORES = (
    *("cortex-a53", "cortex-a55", "cortex-a72", "cortex-a76", "cortex-a510", "cortex-a710"),
    *("neoverse-n1", "cortex-a7"),
)


@command
def main(argv: list[str] | None = None) -> int:
    """Run the command; see ``--help``."""
    options = _parser().parse_args(argv)
    if options.report_only:
        results = Results.load(options.out)
    else:
        results = Results.load(options.out) if options.resume else Results({})
        with tempfile.TemporaryDirectory() as folder:
            _measure(options, results, Path(folder))
    write_report(results, options.report)
    print(f"wrote {options.report} from {options.out}")
    return 0


def _measure(options: argparse.Namespace, results: Results, folder: Path) -> None:
    libraries = _libraries(options, results, folder)
    facts = _facts(options, libraries)
    if results.cores and facts | {"made": results.facts["made"]} != results.facts:
        raise Error(
            f"{options.out} holds figures of other versions or rows: leave --resume out to begin "
            "anew"
        )
    results.facts = facts
    for name in options.cores:
        if name in results.cores:
            continue
        target = targets.get(name)
        with ThreadPoolExecutor(options.jobs) as pool:
            tasks = list(_tasks(target, options.rows, libraries))
            if not tasks:
                results.absent[name] = f"no kernels for {target.instruction_set} yet"
            made = pool.map(partial(_attempt, target, folder), tasks)
            for (rows, candidate), found in zip(tasks, made, strict=True):
                if isinstance(found, Row):
                    results.rows.append(found)
                else:
                    label = f"{candidate.label}, {rows} row{'s' * (rows > 1)}, {name}"
                    results.absent[label] = found
                    print(f"  absent: {label}: {found}")
        results.cores[name] = _described(target, results, options.rows[0])
        results.save(options.out)
        print(f"{name}: {len(tasks)} kernels", flush=True)


def _tasks(
    target: Target, rows: list[int], libraries: Mapping[Library, Path]
) -> Iterator[tuple[int, Candidate]]:
    for count in rows:
        yield from ((count, one) for one in ours.candidates(target, count))
        if libraries:
            found = peers.candidates(target, count, libraries, cost.runner())
            yield from ((count, one) for one in found)


def _attempt(target: Target, folder: Path, task: tuple[int, Candidate]) -> Row | str:
    """The figures of a candidate with so many rows, or in a line why there are none."""
    rows, candidate = task
    try:
        with tempfile.TemporaryDirectory(dir=folder) as own:
            call = candidate.prepare(Path(own))
            found = cost.cost(call, target)
    except Error as failure:
        return reason(failure)
    return Row(
        target.name, rows, candidate.system, candidate.name, candidate.bits, candidate.activation,
        candidate.codebook, candidate.detail, candidate.chosen, call.weight_bytes,
        found.instructions, found.cycles, found.streaming,
    )  # fmt: skip


def _libraries(options: argparse.Namespace, results: Results, folder: Path) -> dict[Library, Path]:
    if options.peers is None:
        for system in sorted({one.system for one in peers.LIBRARIES}):
            results.absent[system] = "its sources were not given (--peers)"
        return {}
    found = {}
    for number, library in enumerate(peers.LIBRARIES):
        print(f"building {library.system} for {library.feature}", flush=True)
        found[library] = folder / f"peer-{number}.so"
        library.build(options.peers, found[library])
    return found


def _facts(options: argparse.Namespace, libraries: Mapping[Library, Path]) -> dict[str, str]:
    now = machine.circumstances()
    versions = {**now["versions"], **cost.versions()}
    facts = {
        "product": f"{OUTPUTS}x{INPUTS}, {', '.join(map(str, options.rows))} rows, one thread",
        "made": now["date"],
        "gq-tvm": now["commit"],
        "versions": ", ".join(f"{name} {number}" for name, number in versions.items()),
    }
    for library in libraries:
        facts[library.system] = library.version(options.peers)
    return facts


def _described(target: Target, results: Results, rows: int) -> dict[str, str]:
    """What is assumed of a core, in words."""
    core = target.core
    assert core is not None  # or there were no figures
    places: dict[str, list[str]] = {}
    for bits in range(8, 0, -1):
        ours = goals.chosen(results, target.name, rows, bits)
        if ours:
            places.setdefault(cost.place(core, ours.weight_bytes), []).append(str(bits))
    lie = "; ".join(f"{place} ({', '.join(bits)} bits)" for place, bits in places.items())
    return {"model": " ".join(core.mca), "places": lie or "-", "source": core.source}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.arm",
        epilog="Figures are saved after each core; a new run begins anew unless it is to --resume.",
        description="Count instructions of gq-tvm's kernels and of others' under emulation, model "
        "their cycles on ARM cores, and write docs/arm.md. No board is needed and none is used.",
    )
    cores = [name for name in _CORES if name in targets.TARGETS]
    parser.add_argument(
        "--cores", nargs="+", metavar="NAME", default=cores, choices=cores,
        help=f"some of {', '.join(cores)}",
    )  # fmt: skip
    parser.add_argument(
        "--rows", nargs="+", type=positive, metavar="N", default=list(ROWS),
        help=f"rows of the activations ({', '.join(map(str, ROWS))})",
    )  # fmt: skip
    folder = os.environ.get("GQ_TVM_PEERS")
    parser.add_argument(
        "--peers", type=Path, metavar="FOLDER", default=Path(folder) if folder else None,
        help="a folder with checkouts of torchao (ao) and KleidiAI (kleidiai) to build and compare "
        "with; also $GQ_TVM_PEERS",
    )  # fmt: skip
    parser.add_argument(
        "--jobs", type=positive, metavar="N", default=len(os.sched_getaffinity(0)),
        help="kernels at a time (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=Path, default=_DOCS / "arm.json", help="the figures (%(default)s)"
    )
    parser.add_argument(
        "--report", type=Path, default=_DOCS / "arm.md", help="the tables (%(default)s)"
    )
    parser.add_argument(
        "--resume", action="store_true", help="leave out cores the file has figures of"
    )
    parser.add_argument("--report-only", action="store_true", help="model nothing")
    return parser


if __name__ == "__main__":
    sys.exit(main())
