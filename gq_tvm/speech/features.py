"""Log-mel features that come out the same chunk by chunk as all at once.

Frames are Kaldi's filter bank without dither; normalisation looks only backwards: each frame is
taken relative to the loudest so far. So a streaming session and a whole file give the same
numbers, bit for bit, and a quiet recording those of a loud one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gq_tvm.errors import Error
from gq_tvm.speech import checks
from gq_tvm.speech.samples import check_samples

FULL_SCALE = 32768.0  # Kaldi's levels are those of 16-bit integers
FLOOR = 3.0  # log energy about that of 16-bit rounding noise: digital silence ends up here
LONGEST_FRAME = 32768  # samples
_MOST_OVERLAP = 32  # frames that share a sample

# The least and the largest value that a model's description may have.
_WHOLE = {"sample_rate": (1000, 768_000), "num_mel_bins": (1, 1024), "stack": (1, 64)}
_REAL = {
    "frame_length_ms": (1, 1000), "frame_shift_ms": (1, 1000),
    "low_hz": (0, 384_000), "high_hz": (-384_000, 384_000),
}  # fmt: skip
_LEVEL = {"quietest": (-100, 100), "release": (0, 1000)}
_LISTS = {"mean": (-1000, 1000), "deviation": (1e-6, 1000)}


@dataclass(frozen=True)
class FeatureSettings:
    """How samples become features; travels with a model as JSON.

    A frame is normalised by the level, the largest log energy so far, which falls by
    ``release`` nats a second and never below ``quietest``: silence is not raised to speech.
    ``mean`` and ``deviation`` (``num_mel_bins`` values each) of the log-mel energies relative to
    the level come from the training set.
    """

    sample_rate: int = 8000
    num_mel_bins: int = 40
    frame_length_ms: float = 25.0
    frame_shift_ms: float = 10.0
    low_hz: float = 60.0
    high_hz: float = 3800.0
    stack: int = 4
    mean: tuple[float, ...] = ()
    deviation: tuple[float, ...] = ()
    quietest: float = 12.0
    release: float = 0.7

    @property
    def size(self) -> int:
        """Values in a stacked frame."""
        return self.num_mel_bins * self.stack

    @property
    def least_seconds(self) -> float:
        """What one stacked frame is made of."""
        return (self.frame_length_ms + (self.stack - 1) * self.frame_shift_ms) / 1000

    @property
    def stacked_frame_samples(self) -> int:
        """Samples from one stacked frame to the next."""
        return round(self.sample_rate * self.frame_shift_ms / 1000) * self.stack

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, all that :meth:`from_dict` needs."""
        return {
            "kind": "log-mel",
            "sample_rate": self.sample_rate,
            "num_mel_bins": self.num_mel_bins,
            "frame_length_ms": self.frame_length_ms,
            "frame_shift_ms": self.frame_shift_ms,
            "low_hz": self.low_hz,
            "high_hz": self.high_hz,
            "stack": self.stack,
            "normalisation": {
                "kind": "peak-level",
                "mean": list(self.mean),
                "deviation": list(self.deviation),
                "quietest": self.quietest,
                "release": self.release,
            },
        }

    @classmethod
    def from_dict(cls, values: Any) -> FeatureSettings:
        """Read what :meth:`to_dict` wrote; raises Error naming what is missing or cannot be."""
        try:
            normalisation = values["normalisation"]
            kinds = values["kind"], normalisation["kind"]
            found = {name: values[name] for name in _WHOLE | _REAL}
            found |= {name: normalisation[name] for name in _LEVEL | _LISTS}
        except (KeyError, TypeError) as error:
            raise Error(
                f"the model's feature description is incomplete ({error!r}); export it again"
            ) from None
        if kinds != ("log-mel", "peak-level"):
            kind, normalised = map(checks.shown, kinds)
            raise Error(
                f"the model wants features of kind {kind} with {normalised} normalisation; "
                "this version computes log-mel with peak-level only"
            )
        found |= {name: checks.whole(name, found[name], *_WHOLE[name]) for name in _WHOLE}
        real = _REAL | _LEVEL
        found |= {name: checks.number(name, found[name], *real[name]) for name in real}
        found |= {name: checks.numbers(name, found[name], *_LISTS[name]) for name in _LISTS}
        settings = cls(**found)
        if not len(settings.mean) == len(settings.deviation) == settings.num_mel_bins:
            raise Error(
                f"the model's feature description has {len(settings.mean)} means and "
                f"{len(settings.deviation)} deviations for {settings.num_mel_bins} mel bins; "
                "export it again"
            )
        if conflict := settings.conflict():
            raise checks.refused(*conflict)
        return settings

    def conflict(self) -> tuple[str, float, str] | None:
        """A value that does not go with the others, its name first, and what it must be."""
        shift, length, rate = self.frame_shift_ms, self.frame_length_ms, self.sample_rate
        if not length / _MOST_OVERLAP <= shift <= length:
            rule = f"from frame_length_ms / {_MOST_OVERLAP} to frame_length_ms"
            return "frame_shift_ms", shift, rule
        if not 2 <= int(rate * 0.001 * length) <= LONGEST_FRAME or int(rate * 0.001 * shift) < 1:
            return "frame_length_ms", length, f"2 to {LONGEST_FRAME} samples"
        high = self.high_hz if self.high_hz > 0 else self.high_hz + rate / 2  # Kaldi's convention
        if not self.low_hz < high <= rate / 2:
            rule = "above low_hz and at most half the sample rate"
            return "high_hz", self.high_hz, rule
        try:
            LogMel(self)
        except ValueError:
            rule = "3 or more, and few enough for a frame's spectrum to tell apart"
            return "num_mel_bins", self.num_mel_bins, rule
        return None


class LogMel:
    """Log-mel frames f32 [n, num_mel_bins] of a growing signal, not normalised."""

    def __init__(self, settings: FeatureSettings):
        import kaldi_native_fbank as knf  # training's: recognisers are run by the core

        options = knf.FbankOptions()
        options.frame_opts.samp_freq = settings.sample_rate
        options.frame_opts.frame_length_ms = settings.frame_length_ms
        options.frame_opts.frame_shift_ms = settings.frame_shift_ms
        options.frame_opts.dither = 0.0
        options.frame_opts.snip_edges = True
        options.mel_opts.num_bins = settings.num_mel_bins
        options.mel_opts.low_freq = settings.low_hz
        options.mel_opts.high_freq = settings.high_hz
        options.use_energy = False
        self._fbank = knf.OnlineFbank(options)
        self._rate = settings.sample_rate
        self._bins = settings.num_mel_bins
        self._done = 0

    def accept(self, samples: np.ndarray) -> np.ndarray:
        """Take samples f32 [n] in [-1, 1]; return the frames that became complete."""
        self._fbank.accept_waveform(self._rate, samples * np.float32(FULL_SCALE))
        ready = self._fbank.num_frames_ready
        frames = np.empty((ready - self._done, self._bins), np.float32)
        for row in range(len(frames)):
            frames[row] = self._fbank.get_frame(self._done + row)
        if len(frames):
            self._fbank.pop(len(frames))
        self._done = ready
        return np.logaddexp(frames, np.float32(FLOOR))


class Level:
    """The loudness that a listener would go by: at once up with the signal, slowly down."""

    def __init__(self, settings: FeatureSettings):
        self._level = self._quietest = settings.quietest
        self._fall = settings.release * settings.frame_shift_ms / 1000

    def relative(self, frames: np.ndarray) -> np.ndarray:
        """Log-mel frames f32 [n, bins] less the level at each of them."""
        energies = np.logaddexp.reduce(frames.astype(np.float64), axis=1)
        levels = np.empty(len(frames))
        for row, energy in enumerate(energies):
            self._level = max(energy, self._level - self._fall, self._quietest)
            levels[row] = self._level
        return (frames - levels[:, None]).astype(np.float32)


class Normaliser:
    """Log-mel frames into features: relative to the level, scaled, stacked."""

    def __init__(self, settings: FeatureSettings):
        bins = settings.num_mel_bins
        self._settings = settings
        self._level = Level(settings)
        self._mean = np.array(settings.mean or [0.0] * bins, np.float32)
        self._scale = 1 / np.array(settings.deviation or [1.0] * bins, np.float32)
        self._waiting = np.empty((0, bins), np.float32)

    def accept(self, frames: np.ndarray) -> np.ndarray:
        """Take log-mel frames f32 [n, bins]; return the features f32 [T, size] now complete.

        Frames too few to stack wait for the next call.
        """
        frames = (self._level.relative(frames) - self._mean) * self._scale
        frames = np.concatenate([self._waiting, frames])
        whole = len(frames) // self._settings.stack * self._settings.stack
        self._waiting = frames[whole:]
        return frames[:whole].reshape(-1, self._settings.size)


class FeatureStream:
    """Features of a growing signal."""

    def __init__(self, settings: FeatureSettings):
        self._log_mel = LogMel(settings)
        self._normaliser = Normaliser(settings)

    def accept(self, samples: np.ndarray) -> np.ndarray:
        """Take samples f32 [n] in [-1, 1]; return the features f32 [T, size] now complete.

        Samples too few for a stacked frame wait for the next call; at the end of an utterance
        they are dropped, unless silence is appended.
        """
        return self._normaliser.accept(self._log_mel.accept(check_samples(samples)))


def extract(samples: np.ndarray, settings: FeatureSettings) -> np.ndarray:
    """Features f32 [T, size] of a whole utterance f32 [n] in [-1, 1]."""
    return FeatureStream(settings).accept(samples)
