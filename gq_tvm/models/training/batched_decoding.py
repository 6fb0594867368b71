"""Greedy decoding of many utterances at once, for evaluation in PyTorch.

What ``gq_tvm.speech`` decodes one frame after another; sums may come in another order, so that
scores differ in their last bits.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from gq_tvm.models.data.batches import of_like_length
from gq_tvm.models.networks.ctc import CTC
from gq_tvm.models.networks.network import Network
from gq_tvm.models.networks.rnnt import RNNT, zeros
from gq_tvm.speech import tokens
from gq_tvm.speech.decoding import MAX_TOKENS_PER_FRAME

_FRAMES = 8192  # in a batch, padding included


@torch.inference_mode()
def transcribe_batched(model: Network, features: Sequence[np.ndarray]) -> list[str]:
    """The texts of utterances given as features f32 [T, F]; puts the model into ``eval`` mode."""
    model.eval()
    texts = [""] * len(features)
    for numbers in of_like_length([len(one) for one in features], _FRAMES):
        longest = max(len(features[n]) for n in numbers)
        x = torch.zeros(len(numbers), longest, model.features)
        for row, n in enumerate(numbers):
            x[row, : len(features[n])] = torch.from_numpy(features[n])
        frames = torch.tensor([len(features[n]) for n in numbers])
        said = _transducer(model, x, frames) if isinstance(model, RNNT) else _ctc(model, x, frames)
        for n, found in zip(numbers, said, strict=True):
            texts[n] = tokens.decode(found)
    return texts


def _transducer(model: RNNT, x: Tensor, frames: Tensor) -> list[list[int]]:
    shapes = model.state_shapes(len(x))
    projection = model.encoder(x, *zeros(shapes["encoder"], x))[0]
    found: list[list[int]] = [[] for _ in range(len(x))]
    token = torch.full((len(x), 1), tokens.BLANK)
    prediction, *state = model.predictor(token, *zeros(shapes["predictor"], x))
    for time in range(x.shape[1]):
        speaking = frames > time
        for _ in range(MAX_TOKENS_PER_FRAME):
            best = model.joint(projection[:, time : time + 1], prediction)[:, 0].argmax(-1)
            speaking = speaking & (best != tokens.BLANK)
            rows = speaking.nonzero().flatten()
            if not len(rows):
                break
            for row in rows.tolist():
                found[row].append(int(best[row]))
            y, *new = model.predictor(best[rows, None], *(part[:, rows] for part in state))
            prediction[rows] = y
            for part, one in zip(state, new, strict=True):
                part[:, rows] = one
    return found


def _ctc(model: CTC, x: Tensor, frames: Tensor) -> list[list[int]]:
    best = model(x).argmax(-1)
    changed = torch.nn.functional.pad(best, (1, 0), value=tokens.BLANK)[:, :-1] != best
    said = changed & (best != tokens.BLANK)
    return [best[row, : frames[row]][said[row, : frames[row]]].tolist() for row in range(len(x))]
