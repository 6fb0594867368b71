"""From the float network to an artefact."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.export import Dim, ExportedProgram

import gq_tvm
from examples.whisper import tokens
from examples.whisper.greedy import greedy
from examples.whisper.log_mel import RATE, SAMPLES, log_mel
from examples.whisper.network import HEAD, Listen, Step, Whisper
from examples.whisper.recogniser import MODEL
from examples.whisper.tokens import CONTEXT, Vocabulary
from gq_tvm import quantize
from gq_tvm.speech import audio

_PAUSE = RATE // 2  # samples between recordings


def programs(whisper: Whisper) -> dict[str, ExportedProgram]:
    """The two functions a ``Recogniser`` calls, of a network in float or in codebooks."""
    sizes = whisper.sizes

    def pairs(length: int) -> list[torch.Tensor]:
        return [torch.zeros(1, length, sizes.heads, HEAD) for _ in range(2 * sizes.layers)]

    heard, cache = pairs(sizes.frames), pairs(2)
    features = torch.zeros(1, sizes.mels, 2 * sizes.frames)
    token, position = torch.zeros(1, 1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)
    room = {1: Dim("room", min=1, max=CONTEXT)}
    return {
        "listen": torch.export.export(Listen(whisper).eval(), (features,)),
        "step": torch.export.export(
            Step(whisper).eval(),
            (token, position, heard, cache),
            dynamic_shapes=(None, None, [None] * len(heard), [room] * len(cache)),
        ),
    }


def compress(
    whisper: Whisper,
    bits: int,
    activation: str | Mapping[str, str] = "int8",
    **options: Any,
) -> Whisper:
    """``quantize.compress``, but for the positions, which are few and get four bits more.

    Args:
        whisper: In float; it is left as it was.
        bits: 1 to 8, or 32 for a network that is compiled in float.
        activation: As there.
        options: As there.
    """
    overrides = {"*.embed_positions": min(bits + 4, 8) if bits < 32 else bits}
    small = quantize.compress(whisper, bits, overrides, activation, **options)
    assert isinstance(small, Whisper)
    return small


def write(
    whisper: Whisper,
    vocabulary: Path,
    folder: Path,
    target: str = "native",
    progress: Callable[[str], object] | None = None,
) -> None:
    """Compile a network in codebooks into what a ``Recogniser`` loads.

    Args:
        whisper: The network.
        vocabulary: The folder with the vocabulary.
        folder: To be written; it is made where there is none.
        target: As in ``gq_tvm.build``.
        progress: As in ``gq_tvm.build``.

    Raises:
        Error: the network cannot be compiled, or the vocabulary is missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokens.copy(vocabulary, folder)
    built = gq_tvm.build(programs(whisper), target, progress=progress)
    gq_tvm.save(built, folder / MODEL)


def joined(recordings: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
    """Recordings one behind the other, as many as fill half a minute together.

    The network hears half a minute whatever there is, and would be fitted to silence otherwise.

    Args:
        recordings: Samples at 16 kHz, f32 [n] each, of at most half a minute.

    Returns:
        The same for whole half minutes, the last perhaps less.
    """
    pause = np.zeros(_PAUSE, np.float32)
    parts: list[list[NDArray[np.float32]]] = []
    room = 0
    for samples in recordings:
        if len(samples) + _PAUSE > room:
            parts.append([])
            room = SAMPLES
        parts[-1] += [samples, pause]
        room -= len(samples) + _PAUSE
    return [np.concatenate(part) for part in parts]


def calibration(
    whisper: Whisper, vocabulary: Vocabulary, features: Sequence[NDArray[np.float32]]
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Inputs for ``quantize.compress``: recordings, and the network's own texts of them.

    Args:
        whisper: The network in float.
        vocabulary: Its vocabulary.
        features: Of recordings, f32 [1, mels, 3000] each.
    """
    inputs = []
    for one in map(torch.from_numpy, features):
        text = greedy(vocabulary, float_step(whisper, one))
        inputs.append((one, torch.tensor([[*vocabulary.prompt, *text]])))
    return inputs


def calibration_with(
    whisper: Whisper, vocabulary: Vocabulary, recordings: Sequence[Path]
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """``calibration`` with sound files, each of at most half a minute, joined."""
    spoken = joined([audio.read(path, RATE) for path in recordings])
    return calibration(whisper, vocabulary, [log_mel(samples) for samples in spoken])


@torch.no_grad()
def float_step(whisper: Whisper, features: torch.Tensor) -> Callable[[int, int], Any]:
    """What ``greedy`` calls, of a network in PyTorch that heard features f32 [1, mels, 2 S]."""
    sizes, step = whisper.sizes, Step(whisper)
    heard = Listen(whisper)(features)
    cache = [torch.zeros(1, sizes.context, *one.shape[2:]) for one in heard]

    @torch.no_grad()
    def run(token: int, position: int) -> Any:
        logits, new = step(torch.tensor([[token]]), torch.tensor([position]), heard, cache)
        for kept, one in zip(cache, new, strict=True):
            kept[:, position] = one[:, 0]
        return logits[0].numpy()

    return run
