"""Resemblyzer's speaker encoder (package ``Resemblyzer``): three LSTM layers and a Linear."""

from __future__ import annotations

from collections import defaultdict
from itertools import islice
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.compression.models import digits
from benchmarks.compression.models.model import Floats, Model
from benchmarks.compression.models.packages import folder

_SIZE, _MELS, _FRAMES = 256, 40, 160
_WAVES, _STRETCHES = 150, 20  # recordings and stretches a speaker that are measured
# The others go on with the next digit, so calibration takes some all through them.
_EVERY, _MORE = 2, 40
_LOUDNESS = -30.0  # dB
_BATCH = 10  # stretches of a call, as they are calibrated with


class ResemblyzerNet(nn.Module):
    """Mel spectrograms f32 [B, T, 40] -> embeddings [B, 256] of length 1."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(_MELS, _SIZE, 3, batch_first=True)
        self.linear = nn.Linear(_SIZE, _SIZE)

    def forward(self, mels: Tensor) -> Tensor:
        """The embedding is of the state after the last frame."""
        y, _ = self.lstm(mels)
        raw = self.linear(y[:, -1]).relu()
        return raw / raw.norm(dim=1, keepdim=True)


class Resemblyzer(Model):
    """Measured on 100 stretches of 1.6 s of five speakers."""

    name = "resemblyzer"
    title = "Resemblyzer"
    measured: ClassVar = {
        "cosine": "mean cosine to the float network's embedding",
        "eer": "equal error rate of telling five speakers apart, in percent",
    }

    @property
    def given(self) -> bool:
        return self.folders.recordings is not None

    def load(self) -> nn.Module:
        kept = torch.load(folder("resemblyzer") / "pretrained.pt", "cpu", weights_only=True)
        weights = kept["model_state"]
        net = ResemblyzerNet()
        net.load_state_dict({name: weights[name] for name in net.state_dict()})
        return net.eval()

    def calibrate(self, net: nn.Module) -> None:
        with torch.no_grad():
            for some in self._stretches("calibration", slice(_WAVES, None, _EVERY), _MORE)[0].split(
                _BATCH
            ):
                net(some)

    def outputs(self, net: nn.Module) -> Floats:
        with torch.no_grad():
            return net(self._measured()[0]).numpy()

    def measures(self, net: nn.Module, outputs: Floats, floats: Floats) -> dict[str, float]:
        speakers = self._measured()[1]
        return {
            "cosine": float((outputs * floats).sum(1).mean()),
            "eer": 100 * equal_error_rate(outputs, speakers),
        }

    def _measured(self) -> tuple[Tensor, NDArray[np.int64]]:
        return self._stretches("evaluation", slice(_WAVES), _STRETCHES)

    def _stretches(self, name: str, which: slice, most: int) -> tuple[Tensor, NDArray[np.int64]]:
        """Stretches of some recordings of each speaker: f32 [N, T, 40], and who speaks, [N]."""
        kept = self.folders.work / "inputs" / f"resemblyzer-{name}.npz"
        if not kept.exists():
            kept.parent.mkdir(parents=True, exist_ok=True)
            mels, speakers = self._computed(which, most)
            np.savez(kept, mels=mels, speakers=speakers)
        with np.load(kept) as arrays:
            return torch.from_numpy(arrays["mels"]), arrays["speakers"]

    def _computed(self, which: slice, most: int) -> tuple[Floats, NDArray[np.int64]]:
        import librosa

        by_speaker = defaultdict(list)
        for path in digits.recordings(self.folders.recordings):
            by_speaker[path.stem.split("_")[1]].append(path)
        mels, speakers = [], []
        for number, paths in enumerate(by_speaker.values()):
            waves = [digits.samples(path) for path in paths[which]]
            wave = digits.resampled(np.concatenate(waves))
            loudness = 20 * np.log10(np.sqrt((wave**2).mean()))
            wave = wave * 10 ** ((_LOUDNESS - loudness) / 20)
            mel = librosa.feature.melspectrogram(
                y=wave, sr=digits.RATE, n_fft=400, hop_length=160, n_mels=_MELS
            ).T.astype(np.float32)
            starts = range(0, len(mel) - _FRAMES + 1, _FRAMES)
            for start in islice(starts, most):
                mels.append(mel[start : start + _FRAMES])
                speakers.append(number)
        return np.stack(mels), np.array(speakers)


def equal_error_rate(embeddings: Floats, speakers: NDArray[np.int64]) -> float:
    """Of telling by the cosine whether two stretches are of one speaker."""
    one, other = np.triu_indices(len(speakers), 1)
    score = (embeddings @ embeddings.T)[one, other]
    same = (speakers[one] == speakers[other])[np.argsort(score)]
    missed = np.cumsum(same) / same.sum()
    taken = 1 - np.cumsum(~same) / (~same).sum()
    at = np.argmin(abs(missed - taken))
    return float((missed[at] + taken[at]) / 2)
