"""``python -m gq_tvm.transcribe``: recordings in, text out, by a compiled recogniser."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from typing import Any

from gq_tvm.command import command, printable
from gq_tvm.errors import Error, sentence
from gq_tvm.runtime.devices.placement import add_device_options, chosen_device, emulates


@command
def main(argv: list[str] | None = None) -> int:
    """Run the command; see ``--help``."""
    options = _parser().parse_args(argv)
    import numpy as np

    from gq_tvm.recognition import recogniser_of
    from gq_tvm.runtime import load

    with chosen_device(options, options.artefact) as device:
        net = load(options.artefact, device, options.threads)
        recogniser = recogniser_of(net, options.artefact)
        emulated = {"emulated": True} if emulates(device) else {}
        recogniser.transcribe(np.zeros(recogniser.chunk_samples, np.float32))  # touch all weights
        code = 0
        for path in options.recordings:
            try:
                row = _transcribe(recogniser, path, live=options.live) | emulated
            except Error as refusal:  # it costs itself, and none of the others
                print(f"error: {sentence(refusal)}", file=sys.stderr)
                row, code = {"error": str(refusal)}, 2
            if options.json:
                print(json.dumps({"file": path, **row}), flush=True)
            elif "text" in row:
                print(_line(path, row), flush=True)
    return code


def _transcribe(recogniser: Any, path: str, live: bool) -> dict[str, Any]:
    """Stream a recording through a session, chunk by chunk, as a microphone would."""
    session, step, rate = recogniser.session(), recogniser.chunk_samples, recogniser.sample_rate
    reading = slowest = 0.0
    count, shown = 0, ""
    begin = asked = time.perf_counter()
    for samples in _chunks(path, rate, step):
        came = time.perf_counter()
        text = session.accept(samples)
        done = time.perf_counter()
        reading, slowest = reading + came - asked, max(slowest, done - came)
        if live and text != shown:
            print(f"{count / rate:7.2f} s  {text}", file=sys.stderr)
            shown = text
        count += len(samples)
        asked = time.perf_counter()
    text = session.finish()
    seconds = time.perf_counter() - begin
    return {
        "text": text,
        "audio_seconds": round(count / rate, 3),
        "seconds": round(seconds, 4),
        "reading_seconds": round(reading, 4),
        "rtf": round(seconds * rate / count, 4),
        "chunk_ms": round(1000 * step / rate, 1),
        "slowest_chunk_ms": round(1000 * slowest, 3),
    }


def _chunks(path: str, rate: int, size: int) -> Iterator[Any]:
    """The samples f32 [size] of a recording as they are decoded; at the end what is left."""
    import numpy as np

    from gq_tvm.speech import audio

    held = np.empty(0, np.float32)
    for piece in audio.pieces(path, rate, lambda note: print(f"note: {note}", file=sys.stderr)):
        held = np.concatenate([held, piece])
        whole = len(held) // size * size
        yield from held[:whole].reshape(-1, size)
        held = held[whole:]
    if len(held):
        yield held


def _line(path: str, row: dict[str, Any]) -> str:
    """What is printed of a recording; what the terminal cannot show is spelled out."""
    emulated = " (emulated: no times of a board)" if "emulated" in row else ""
    return printable(
        f"{path}: {row['text']}\n"
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
    parser.add_argument(
        "recordings", metavar="WAV", nargs="+", help="WAV, FLAC or Ogg files, or pipes"
    )
    parser.add_argument(
        "--live",
        action="store_true",
        help="print the text on stderr each time it grows, as fast as the recording is recognised",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a recording")
    add_device_options(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
