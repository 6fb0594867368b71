"""The spoken digits that silero and Resemblyzer hear, at 16 kHz."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gq_tvm.errors import Error

RATE = 16000


def recordings(folder: Path | None) -> list[Path]:
    """All recordings of a folder, by name.

    Raises:
        Error: there are none.
    """
    found = sorted(folder.glob("*.wav")) if folder is not None else []
    if not found:
        raise Error(
            "silero and Resemblyzer are measured on the Free Spoken Digit Dataset; give its folder "
            "of DIGIT_SPEAKER_TAKE.wav with --recordings."
        )
    return found


def samples(path: Path) -> NDArray[np.float32]:
    """A recording, f32 in [-1, 1], as it was recorded."""
    import soundfile

    return soundfile.read(path, dtype="float32")[0]


def resampled(wave: NDArray[np.float32]) -> NDArray[np.float32]:
    """From the 8 kHz of the recordings to the networks' rate."""
    import librosa

    return librosa.resample(wave, orig_sr=8000, target_sr=RATE)
