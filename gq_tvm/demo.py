"""``python -m gq_tvm.demo``: the shipped digit recogniser from its exported program to ARM.

Compiles it for this machine, transcribes recorded human digits, sets size and latency against the
same model in fp32, then compiles it for ARM and compares the text from an emulated board.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from pathlib import Path
from typing import Any

from gq_tvm.command import command
from gq_tvm.errors import Error

_DIGITS = Path(__file__).with_name("models") / "digits"
_ON_THE_BOARD = 4  # recordings: emulation is a hundred times slower than a board


@command
def main(argv: list[str] | None = None) -> int:
    """Run the demonstration; see ``--help``."""
    parser = argparse.ArgumentParser(
        prog="python -m gq_tvm.demo", description="Show the road from a trained model to ARM."
    )
    parser.add_argument(
        "-o", "--output", default="build/demo", help="folder of the artefacts (%(default)s)"
    )
    options = parser.parse_args(argv)
    folder = Path(options.output)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as failure:
        raise Error(f"cannot use {folder}: {failure.strerror}; choose another folder") from failure
    warnings.simplefilter("ignore")

    from gq_tvm import inspect
    from gq_tvm.build import build
    from gq_tvm.recognition import recogniser_of
    from gq_tvm.runtime import load
    from gq_tvm.runtime.devices.placement import emulated
    from gq_tvm.runtime.profiling import compare

    program, spoken, source = _DIGITS / "digits.pt2", *_recordings()

    _title("1. Compile for this machine")
    native = _compile(build, program, folder / "digits.gq", target="native")
    print(inspect.layer_table(native.plan))

    _title(f"2. Transcribe {source}")
    recogniser = recogniser_of(native, "digits.gq")
    texts = _transcribe(recogniser, spoken)

    _title("3. Size and latency against the same model in fp32, compiled by the same TVM")
    baseline = _compile(build, program, folder / "digits-fp32.gq", kernel="dense_f32")
    print(inspect.summary(native.plan))
    print(compare({"gq": native, "fp32": baseline}).table())

    _title("4. Compile for ARM and run on an emulated Cortex-A")
    artefact = folder / "digits-arm.gq"
    build(program, target="arm").save(artefact)
    try:
        with emulated(artefact) as board:
            on_board = recogniser_of(load(artefact, board), artefact.name)
            again = _transcribe(on_board, spoken[:_ON_THE_BOARD])
    except Error as reason:
        print(f"skipped: {reason}")
        return 0
    same = again == texts[:_ON_THE_BOARD]
    print("the same text as on this machine" if same else "NOT the text of this machine")
    return 0 if same else 1


def _recordings() -> tuple[list[tuple[str, str]], str]:
    """Recordings with their true words, and what they are."""
    from gq_tvm.demo_prompts import digits

    try:
        return digits(), "recorded human digits (Asterisk's prompts, a voice nobody trained on)"
    except Error as reason:
        print(f"no human recordings ({reason}): synthetic samples instead")
    truth = json.loads((_DIGITS / "samples" / "truth.json").read_text())["files"]
    spoken = [(str(_DIGITS / "samples" / name), one["text"]) for name, one in truth.items()]
    return spoken, "synthetic digits (espeak-ng and flite)"


def _compile(build: Any, program: Path, output: Path, **options: Any) -> Any:
    from gq_tvm.runtime import load

    begin = time.perf_counter()
    build(program, **options).save(output)
    print(f"{output} compiled in {time.perf_counter() - begin:.1f} s\n")
    return load(output)


def _transcribe(recogniser: Any, spoken: list[tuple[str, str]]) -> list[str]:
    from gq_tvm.speech import audio

    texts, seconds, duration = [], 0.0, 0.0
    for path, truth in spoken:
        samples = audio.read(path, recogniser.sample_rate)
        begin = time.perf_counter()
        texts.append(recogniser.transcribe(samples))
        seconds += time.perf_counter() - begin
        duration += len(samples) / recogniser.sample_rate
        mark = "right" if texts[-1] == truth else "WRONG"
        print(f"  {Path(path).name:34} said {truth:26} heard {texts[-1]:26} {mark}")
    right = sum(text == truth for text, (_, truth) in zip(texts, spoken, strict=True))
    print(f"{right} of {len(spoken)} right; real-time factor {seconds / duration:.4f}")
    return texts


def _title(text: str) -> None:
    print(f"\n{text}\n{'-' * len(text)}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
