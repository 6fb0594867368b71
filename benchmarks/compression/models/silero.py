"""Silero VAD (package ``silero-vad``): convolutions and an LSTM, 16 kHz, a probability a frame."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.compression.models import digits
from benchmarks.compression.models.model import Floats, Model
from benchmarks.compression.models.packages import folder

_FRAME, _CONTEXT, _SIZE = 512, 64, 128
_EACH, _COUNT, _STREAMS = 60, 40, 8  # every 60th recording, 40 of them, as eight streams


class SileroNet(nn.Module):
    """The 16 kHz branch: (x [B, 576], h [B, 128], c [B, 128]) -> probability [B, 1], h, c."""

    def __init__(self) -> None:
        super().__init__()
        self.stft_conv = nn.Conv1d(1, 258, 256, stride=128, bias=False)
        self.conv1 = nn.Conv1d(129, 128, 3, padding=1)
        self.conv2 = nn.Conv1d(128, 64, 3, stride=2, padding=1)
        self.conv3 = nn.Conv1d(64, 64, 3, stride=2, padding=1)
        self.conv4 = nn.Conv1d(64, 128, 3, padding=1)
        self.lstm = nn.LSTM(_SIZE, _SIZE)
        self.final_conv = nn.Conv1d(_SIZE, 1, 1)

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One frame of each stream, with 64 samples of what came before."""
        spectrum = self.stft_conv(F.pad(x, (0, _CONTEXT), "reflect").unsqueeze(1))
        y = (spectrum[:, :129] ** 2 + spectrum[:, 129:] ** 2).sqrt()
        for layer in (self.conv1, self.conv2, self.conv3, self.conv4):
            y = layer(y).relu()
        y, (h, c) = self.lstm(y.squeeze(-1).unsqueeze(0), (h.unsqueeze(0), c.unsqueeze(0)))
        logit = self.final_conv(y[0].unsqueeze(-1).relu())
        return logit.sigmoid().squeeze(1).mean(1, keepdim=True), h[0], c[0]


class Silero(Model):
    """Measured on 40 recordings with half a second of silence after each, in eight streams."""

    name = "silero"
    title = "Silero VAD"
    measured: ClassVar = {
        "correlation": "correlation of the speech probability with the float network's"
    }

    @property
    def given(self) -> bool:
        return self.folders.recordings is not None

    def load(self) -> nn.Module:
        from safetensors.torch import load_file

        path = folder("silero_vad") / "data" / "silero_vad_16k.safetensors"
        weights = {
            name.replace("lstm_cell.", "lstm.") + "_l0" * name.startswith("lstm_cell."): tensor
            for name, tensor in load_file(path).items()
        }
        net = SileroNet()
        net.load_state_dict(weights)
        return net.eval()

    def examples(self) -> tuple[Tensor, ...]:
        # A tensor each: torch.export makes one input of those that share one.
        h, c = torch.zeros(_STREAMS, _SIZE), torch.zeros(_STREAMS, _SIZE)
        return torch.zeros(_STREAMS, _CONTEXT + _FRAME), h, c

    def calibrate(self, net: nn.Module) -> None:
        _probabilities(net, self._frames("calibration", _EACH // 2))

    def outputs(self, net: nn.Module) -> Floats:
        return _probabilities(net, self._frames("evaluation", 0))

    def measures(self, net: nn.Module, outputs: Floats, floats: Floats) -> dict[str, float]:
        return {"correlation": float(np.corrcoef(outputs, floats)[0, 1])}

    def _frames(self, half: str, first: int) -> Tensor:
        kept = self.folders.work / "inputs" / f"silero-{half}.npy"
        if not kept.exists():
            paths = digits.recordings(self.folders.recordings)[first::_EACH][:_COUNT]
            kept.parent.mkdir(parents=True, exist_ok=True)
            each = len(paths) // _STREAMS
            np.save(kept, streams([paths[at : at + each] for at in range(0, len(paths), each)]))
        return torch.from_numpy(np.load(kept))


def streams(groups: Sequence[Sequence[Path]]) -> Floats:
    """Recordings one after another, a silence after each: f32 [frames, streams, 576]."""
    waves = [_stream(paths) for paths in groups]
    longest = max(map(len, waves))
    longest += -longest % _FRAME
    rng = np.random.default_rng(0)
    wave = np.stack([np.pad(one, (0, longest - len(one))) for one in waves])
    wave += 1e-3 * rng.standard_normal(wave.shape).astype(np.float32)  # nowhere digital silence
    wave = np.pad(wave, ((0, 0), (_CONTEXT, 0)))
    starts = range(_CONTEXT, wave.shape[1], _FRAME)
    return np.stack([wave[:, at - _CONTEXT : at + _FRAME] for at in starts])


def _stream(paths: Sequence[Path]) -> Floats:
    silence = np.zeros(digits.RATE // 2, np.float32)
    parts = [part for p in paths for part in (digits.resampled(digits.samples(p)), silence)]
    return np.concatenate(parts)


def _probabilities(net: nn.Module, frames: Tensor) -> Floats:
    h = c = torch.zeros(frames.shape[1], _SIZE)
    heard = []
    with torch.no_grad():
        for frame in frames:
            probability, h, c = net(frame, h, c)
            heard.append(probability[:, 0])
    return torch.cat(heard).numpy()
