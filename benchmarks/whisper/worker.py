"""A process of its own for one system: it prepares, or transcribes and says what that took.

    python -m benchmarks.whisper.worker prepare NAME FOLDER RECORDING ...
    python -m benchmarks.whisper.worker transcribe NAME FOLDER THREADS RECORDING ...

The last line of standard output is what it found, as JSON.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.whisper import systems
from gq_tvm.speech import audio

_RATE = 16000


def main(argv: list[str]) -> int:
    verb, name, folder, *rest = argv
    system = next(one for one in systems.systems() if one.name == name)
    if verb == "prepare":
        system.prepare(Path(folder), [Path(one) for one in rest])
        found: Any = {}
    else:
        found = _transcribe(system, Path(folder), int(rest[0]), rest[1:])
    print(json.dumps(found))
    return 0


def _transcribe(
    system: systems.System, folder: Path, threads: int, recordings: list[str]
) -> dict[str, Any]:
    begin = time.perf_counter()
    transcribe = system.start(folder, threads)
    loading = time.perf_counter() - begin
    peak = _peak()
    Path("/proc/self/clear_refs").write_text("5")  # the peak from here on
    transcribe(audio.read(recordings[0], _RATE))
    texts, seconds, lengths = [], [], []
    for path in recordings:
        samples = audio.read(path, _RATE)
        begin = time.perf_counter()
        texts.append(transcribe(samples))
        seconds.append(round(time.perf_counter() - begin, 4))
        lengths.append(len(samples) / _RATE)
    at_work = _peak()
    return {
        "texts": texts,
        "seconds": seconds,
        "audio_seconds": round(sum(lengths), 2),
        "loading_seconds": round(loading, 3),
        "peak_bytes": max(peak, at_work),
        "peak_bytes_at_work": at_work,
        "model_bytes": system.size(folder),
        **systems.about(folder),
    }


def _peak() -> int:
    """The most memory this process had in RAM, bytes: mapped files too."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
