"""``python -m gq_tvm.transcribe``: recordings in, text out, by a compiled recogniser."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from gq_tvm.command import command, printable
from gq_tvm.errors import Error
from gq_tvm.runtime.placement import add_device_options, chosen_device, emulates


@command
def main(argv: list[str] | None = None) -> int:
    """Run the command; see ``--help``."""
    options = _parser().parse_args(argv)
    from gq_tvm.runtime import load
    from gq_tvm.speech import audio

    with chosen_device(options, options.artefact) as device:
        net = load(options.artefact, device, options.threads)
        recogniser = recogniser_of(net, options.artefact)
        emulated = {"emulated": True} if emulates(device) else {}
        # All are read before the first is transcribed: a bad file ends the command at once.
        recordings = [
            (path, audio.read(path, recogniser.sample_rate)) for path in options.recordings
        ]
        recogniser.transcribe(recordings[0][1][: recogniser.chunk_samples])  # touch all weights
        for path, samples in recordings:
            row = _transcribe(recogniser, samples, live=options.live) | emulated
            print(_line(path, row) if not options.json else json.dumps({"file": path, **row}))
    return 0


def recogniser_of(net: Any, name: str) -> Any:
    """Return the `speech.Recogniser` whose networks are the functions of a loaded artefact.

    Raises:
        Error: the artefact is no recogniser; the text calls it ``name``.
    """
    from gq_tvm.speech.decoding import DECODERS
    from gq_tvm.speech.recogniser import Recogniser

    metadata = net.metadata if isinstance(net.metadata, dict) else {}
    decoding = DECODERS.get(metadata.get("task", ""))
    if decoding is None or not set(decoding.NETWORKS) <= set(net.functions):
        raise Error(
            f"{name} is no speech recogniser (it has the functions {', '.join(net.functions)}); "
            "compile what python -m gq_tvm.train exported"
        )
    return Recogniser(metadata, {part: net[part] for part in decoding.NETWORKS})


def _transcribe(recogniser: Any, samples: Any, live: bool) -> dict[str, Any]:
    """Stream a recording through a session, chunk by chunk, as a microphone would."""
    session, slowest, start = recogniser.session(), 0.0, time.perf_counter()
    step, shown = recogniser.chunk_samples, ""
    for at in range(0, len(samples), step):
        begin = time.perf_counter()
        text = session.accept(samples[at : at + step])
        slowest = max(slowest, time.perf_counter() - begin)
        if live and text != shown:
            print(f"{at / recogniser.sample_rate:7.2f} s  {text}", file=sys.stderr)
            shown = text
    text = session.finish()
    seconds = time.perf_counter() - start
    duration = len(samples) / recogniser.sample_rate
    return {
        "text": text,
        "audio_seconds": round(duration, 3),
        "seconds": round(seconds, 4),
        "rtf": round(seconds / duration, 4),
        "chunk_ms": round(1000 * step / recogniser.sample_rate, 1),
        "slowest_chunk_ms": round(1000 * slowest, 3),
    }


def _line(path: str, row: dict[str, Any]) -> str:
    emulated = " (emulated: no times of a board)" if "emulated" in row else ""
    return (
        f"{printable(Path(path).name)}: {row['text']}\n"
        f"    {row['audio_seconds']:.2f} s of audio in {1000 * row['seconds']:.1f} ms, real-time "
        f"factor {row['rtf']:.4f}; slowest {row['chunk_ms']:.0f} ms chunk "
        f"{row['slowest_chunk_ms']:.2f} ms{emulated}"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m gq_tvm.transcribe",
        description="Transcribe recordings with a compiled recogniser, streaming in chunks.",
        epilog="example:\n  python -m gq_tvm.transcribe digits.gq one.wav two.wav",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("artefact", metavar="DIR", help="a compiled recogniser")
    parser.add_argument("recordings", metavar="WAV", nargs="+", help="WAV, FLAC or Ogg files")
    parser.add_argument("--live", action="store_true", help="print the text as it grows, on stderr")
    parser.add_argument("--json", action="store_true", help="one JSON object a recording")
    add_device_options(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
