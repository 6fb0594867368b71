"""Whisper tiny.en on real speech, beside faster-whisper and whisper.cpp; resumable.

    python -m benchmarks.whisper --data FOLDER --only "gq-tvm 4 bits"

FOLDER holds the unpacked packages that benchmarks/whisper/clips.py names. Started again, systems
that have figures on the same clips are passed over. Take speeds from a quiet machine only.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from gq_tvm import files
from gq_tvm.command import command, positive


@command
def main(argv: list[str] | None = None) -> int:
    """Run the command; see ``--help``."""
    options = _parser().parse_args(argv)

    from benchmarks.machine import circumstances, describe
    from benchmarks.whisper import clips, report
    from benchmarks.whisper.systems import systems

    heard = clips.evaluated(options.data, options.work / "clips")
    heard = heard[:: max(1, len(heard) // (options.clips or len(heard)))][: options.clips or None]
    tuning = clips.calibration(options.data, options.work / "clips")
    path = options.work / "whisper.json"
    results = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"systems": {}}
    names = [clip.name for clip in heard]
    if results.get("clips") != names:
        results = {"systems": {}}
    results |= {"clips": names, "machine": describe(), "threads": options.threads}
    for system in systems():
        known = system.name in results["systems"] and not options.again
        if known or not any(one in system.name for one in options.only or [""]):
            continue
        print(f"{system.name} ...", file=sys.stderr, flush=True)
        folder = options.work / system.name.replace(" ", "-")
        failure = _prepared(system.name, folder, [str(one.path) for one in tuning])
        if failure is None:
            arguments = [str(options.threads), *(str(clip.path) for clip in heard)]
            found, failure = _worker("transcribe", system.name, folder, arguments)
        row = {"absent": failure} if failure else found
        results["systems"][system.name] = row | {"circumstances": circumstances()}
        files.write_text(path, json.dumps(results, indent=1) + "\n")
    page = report.page(results, [clip.text for clip in heard])
    files.write_text(options.work / "whisper.md", page)
    print(page)
    return 0


def _prepared(name: str, folder: Path, tuning: list[str]) -> str | None:
    """Make what a system loads, once; None, or why it cannot be made."""
    done = folder / ".prepared"
    if done.exists():
        return None
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    _, failure = _worker("prepare", name, folder, tuning)
    if failure is None:
        done.touch()
    return failure


def _worker(
    verb: str, name: str, folder: Path, arguments: list[str]
) -> tuple[dict[str, Any], str | None]:
    """What a process of its own found, or the last line of what it complained of."""
    command = [sys.executable, "-m", "benchmarks.whisper.worker", verb, name, str(folder)]
    ended = subprocess.run([*command, *arguments], capture_output=True, text=True)
    if ended.returncode:
        said = ended.stderr.strip().splitlines() or [f"exit code {ended.returncode}"]
        return {}, said[-1]
    return json.loads(ended.stdout.splitlines()[-1]), None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.whisper",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--data", type=Path, required=True, metavar="FOLDER", help="the unpacked packages"
    )
    parser.add_argument(
        "--work",
        type=Path,
        default=Path("build/whisper"),
        metavar="FOLDER",
        help="models, clips and whisper.{json,md} (default: %(default)s)",
    )
    parser.add_argument(
        "--only", action="append", metavar="TEXT", help="systems whose name holds one of these"
    )
    parser.add_argument("--clips", type=positive, metavar="N", help="evenly chosen (default: all)")
    parser.add_argument("--threads", type=positive, default=1, metavar="N", help="(default: 1)")
    parser.add_argument("--again", action="store_true", help="measure again what has figures")
    return parser


if __name__ == "__main__":
    sys.exit(main())
