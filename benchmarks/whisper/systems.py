"""The engines: what each needs made beforehand, and how it transcribes.

Each is greedy, without time stamps and without a second try at another temperature, on the same
weights; packages are imported where they are used, so that a process holds no other's.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

Transcribe = Callable[[np.ndarray], str]
_ABOUT = "about.json"


@dataclass(frozen=True)
class System:
    """One row of the table.

    Attributes:
        name: What it is called, unique.
        prepare: Writes what it loads into an empty folder; is given calibration recordings.
        start: Loads that, for so many threads.
        size: The bytes of the model it loads.
    """

    name: str
    prepare: Callable[[Path, list[Path]], None]
    start: Callable[[Path, int], Transcribe]
    size: Callable[[Path], int]


def systems() -> list[System]:
    """All of them, the float reference first."""
    return [
        System("PyTorch fp32", _nothing, _start_pytorch, lambda _: 0),
        *map(_ours, (32, 8, 6, 5, 4, 3, 2)),
        *map(_faster_whisper, ("float32", "int8")),
        *map(_whisper_cpp, ("f16", "q8_0", "q5_0", "q4_0")),
    ]


def about(folder: Path) -> dict[str, float]:
    """What a preparation says of its result; nothing, by most."""
    path = folder / _ABOUT
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _nothing(folder: Path, calibration: list[Path]) -> None:
    """Prepare nothing: the package's own folder is loaded."""


def _start_pytorch(_: Path, threads: int) -> Transcribe:
    import torch

    from examples.whisper import checkpoint
    from examples.whisper.compiling import float_step
    from examples.whisper.greedy import greedy
    from examples.whisper.log_mel import log_mel
    from examples.whisper.tokens import Vocabulary

    torch.set_num_threads(threads)
    model = checkpoint.folder()
    whisper, vocabulary = checkpoint.load(model), Vocabulary(model)

    def transcribe(samples: np.ndarray) -> str:
        step = float_step(whisper, torch.from_numpy(log_mel(samples)))
        return vocabulary.text(greedy(vocabulary, step))

    return transcribe


def _ours(bits: int) -> System:
    from examples.whisper.recogniser import MODEL

    def prepare(folder: Path, calibration: list[Path]) -> None:
        import torch

        from examples.whisper import checkpoint, compiling
        from examples.whisper.tokens import Vocabulary
        from gq_tvm import quantize

        torch.manual_seed(0)
        model = checkpoint.folder()
        whisper, vocabulary = checkpoint.load(model), Vocabulary(model)
        recordings = calibration if bits < 32 else []
        inputs = compiling.calibration_with(whisper, vocabulary, recordings)
        small = compiling.compress(whisper, bits, inputs=inputs or None)
        weights = [one for one in quantize.describe(small) if one.bits < 32]
        told = {
            "bits_per_weight": 32
            * sum(w.size for w in weights)
            / sum(w.float_size for w in weights),
            "float_bytes": 4 * sum(p.numel() for p in small.parameters()),
        }
        compiling.write(small, model, folder)
        (folder / _ABOUT).write_text(json.dumps(told), encoding="utf-8")

    def start(folder: Path, threads: int) -> Transcribe:
        from examples.whisper.recogniser import Recogniser

        return Recogniser(folder).transcribe

    return System(
        "gq-tvm fp32" if bits == 32 else f"gq-tvm {bits} bits",
        prepare,
        start,
        lambda folder: _bytes_of(folder / MODEL),
    )


def _faster_whisper(compute: str) -> System:
    def start(_: Path, threads: int) -> Transcribe:
        from faster_whisper import WhisperModel

        from examples.whisper import checkpoint

        model = WhisperModel(
            str(checkpoint.folder()), "cpu", compute_type=compute, cpu_threads=threads
        )

        def transcribe(samples: np.ndarray) -> str:
            segments, _ = model.transcribe(
                samples,
                language="en",
                beam_size=1,
                temperature=0.0,
                without_timestamps=True,
                condition_on_previous_text=False,
                compression_ratio_threshold=None,
                log_prob_threshold=None,
                no_speech_threshold=None,
            )
            return "".join(segment.text for segment in segments)

        return transcribe

    def size(_: Path) -> int:
        from examples.whisper import checkpoint

        return _bytes_of(checkpoint.folder() / "model.bin")

    return System(f"faster-whisper {compute}", _nothing, start, size)


def _whisper_cpp(kind: str) -> System:
    def prepare(folder: Path, calibration: list[Path]) -> None:
        import pywhispercpp

        from benchmarks.whisper import ggml_file
        from examples.whisper import checkpoint
        from examples.whisper.tokens import Vocabulary

        model = checkpoint.folder()
        library = Path(str(pywhispercpp.__file__)).parents[1] / "libggml-base.so"
        whisper, vocabulary = checkpoint.load(model), Vocabulary(model)
        ggml_file.write(whisper, vocabulary, kind, library, folder / "model.bin")

    def start(folder: Path, threads: int) -> Transcribe:
        from pywhispercpp.model import Model

        model = Model(
            str(folder / "model.bin"),
            redirect_whispercpp_logs_to=None,
            n_threads=threads,
            print_progress=False,
            print_realtime=False,
            single_segment=True,
            no_timestamps=True,
            no_context=True,
            suppress_nst=True,
            temperature_inc=0.0,
        )
        return lambda samples: "".join(segment.text for segment in model.transcribe(samples))

    return System(
        f"whisper.cpp {kind}", prepare, start, lambda folder: _bytes_of(folder / "model.bin")
    )


def _bytes_of(path: Path) -> int:
    return sum(one.stat().st_size for one in _files(path))


def _files(path: Path) -> Iterator[Path]:
    yield from (path.iterdir() if path.is_dir() else [path])
