"""Reading and writing recordings."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile

from gq_tvm import reading
from gq_tvm.errors import Error
from gq_tvm.speech import wav_header
from gq_tvm.speech.resampling import resample, resampled_pieces
from gq_tvm.speech.samples import first_odd, spelled

__all__ = ["duration", "pieces", "read", "resample", "write"]  # resample: callers know it from here

LEAST_RATE, MOST_RATE = 1000, 768_000  # Hz; others are damage
_PIECE = 1 << 20  # values read at once, over all channels
_CANCELLED = 1e-6  # of the channels' energy; what is left of less is rounding


def read(
    path: str | Path, sample_rate: int, note: Callable[[str], None] = warnings.warn
) -> np.ndarray:
    """Samples f32 [n] of a recording; see :func:`pieces`."""
    return np.concatenate([*pieces(path, sample_rate, note)])


def pieces(
    path: str | Path, sample_rate: int, note: Callable[[str], None] = warnings.warn
) -> Iterator[np.ndarray]:
    """A recording piece by piece, of bounded length: samples f32 [n] in [-1, 1].

    Args:
        path: a WAV, FLAC or Ogg file, or whatever else libsndfile reads; a pipe is held in memory.
        sample_rate: in Hz, what the recording is brought to; its channels are averaged.
        note: told what is odd about the recording, but no reason to refuse it.

    Raises:
        Error: it is missing, unreadable or empty, its rate cannot be, or samples are no sound.
    """
    path = Path(path)
    with _opened(path) as file:
        mixed = _mixed(path, file, note)
        yield from resampled_pieces(mixed, file.samplerate, sample_rate)


def duration(path: str | Path) -> float:
    """Seconds of a recording, as many as :func:`read` gives; raises Error where it is unreadable.

    The header says it, unless there is no last sample where it should be: then all are counted.
    """
    path = Path(path)
    with _opened(path) as file:
        if not file.length:
            return 0.0
        try:
            file.seek(file.length - 1)
            if len(file.read(1)):
                return file.length / file.samplerate
        except soundfile.SoundFileError:
            pass
    with _opened(path) as file:
        return sum(map(len, _mixed(path, file, lambda _: None))) / file.samplerate


def write(path: str | Path, samples: np.ndarray, sample_rate: int) -> None:
    """Write samples f32 [n] in [-1, 1] as a 16-bit recording of the kind its name ends in."""
    kind = Path(path).suffix.removeprefix(".")
    with open(path, "wb") as file:
        clipped = np.clip(samples, -1.0, 1.0)
        soundfile.write(file, clipped, sample_rate, subtype="PCM_16", format=kind)


class _Forwards(soundfile.SoundFile):
    """A recording read from start to end.

    Attributes:
        length: Samples a channel, as the header says.

    soundfile seeks after each piece of what it takes for seekable, and allocates all that the
    header promises: both fail where the header does not know the length.
    """

    length: int

    def seekable(self) -> bool:
        return False


@contextmanager
def _opened(path: Path) -> Iterator[_Forwards]:
    """A recording; by its descriptor: soundfile knows no names but those in UTF-8."""
    with reading.opened(path, "a recording") as file:
        try:
            source: BinaryIO = file if file.seekable() else io.BytesIO(file.read())
            sound = _sound(source)
            if not sound.frames and (whole := wav_header.unfinished(source)):
                source = whole
                sound = _sound(source)
            with sound:
                sound.length = wav_header.length(source, sound.frames)
                if not LEAST_RATE <= sound.samplerate <= MOST_RATE:
                    raise Error(
                        f"{path} says it has {sound.samplerate} samples a second, which is damage; "
                        "record it again"
                    )
                yield sound
        except (soundfile.SoundFileError, OSError) as error:
            reason = str(getattr(error, "error_string", error)).strip().rstrip(".")
            raise Error(
                f"{path} cannot be read as audio ({reason}); give a WAV, FLAC or Ogg file"
            ) from None


def _sound(source: BinaryIO) -> _Forwards:
    if isinstance(source, io.BytesIO):
        return _Forwards(source)
    return _Forwards(source.fileno(), closefd=False)


def _mixed(path: Path, file: _Forwards, note: Callable[[str], None]) -> Iterator[np.ndarray]:
    """The mean of the channels, f32 [n] a piece; raises Error when there are no samples."""
    done, alone, together = 0, 0.0, 0.0
    most = max(1, min(_PIECE // file.channels, file.length))
    while len(samples := file.read(min(most, file.length - done), "float32", always_2d=True)):
        if (at := first_odd(samples)) is not None:
            seconds = (done + at // file.channels) / file.samplerate
            raise Error(
                f"{path} holds a sample of {spelled(samples.flat[at])} at {seconds:.3f} s, audio "
                "lies in [-1, 1]; record or convert it again"
            )
        mixed = samples[:, 0] if file.channels == 1 else samples.mean(axis=1)
        if file.channels > 1:
            alone += float(np.square(samples, dtype=np.float64).sum()) / file.channels
            together += float(np.square(mixed, dtype=np.float64).sum())
        done += len(samples)
        yield mixed
    if not done:
        raise Error(f"{path} holds no samples; record it again")
    if together < _CANCELLED * alone:
        note(f"the channels of {path} cancel each other; give one of them")
