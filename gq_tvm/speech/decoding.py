"""Greedy decoding of an RNN transducer, step by step.

The networks are callables on NumPy arrays, so PyTorch and a compiled model are
interchangeable:

- ``encoder(features f32 [1, T, F], h, c) -> (projection f32 [1, T, J], h, c)``
- ``predictor(token i64 [1, 1], h, c) -> (projection f32 [1, 1, J], h, c)``
- ``joint(f f32 [1, 1, J], g f32 [1, 1, J]) -> logits f32 [1, 1, V]``
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from gq_tvm.errors import Error
from gq_tvm.speech.tokens import BLANK

Encoder = Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]]
Predictor = Encoder
Joint = Callable[[np.ndarray, np.ndarray], np.ndarray]

MAX_ENCODER_FRAMES = 512  # the longest T a recogniser is exported for
MAX_TOKENS_PER_FRAME = 10  # a model that never says blank must not hang the session


class GreedyDecoder:
    """Takes features in pieces; :attr:`tokens` grows. Cutting differently changes nothing."""

    def __init__(
        self,
        encoder: Encoder,
        predictor: Predictor,
        joint: Joint,
        states: Mapping[str, Mapping[str, Sequence[int]]],
    ):
        self._encoder, self._predictor, self._joint = encoder, predictor, joint
        self._encoder_state = initial_state(states, "encoder")
        self._predictor_state = initial_state(states, "predictor")
        self.tokens: list[int] = []
        self._predict(BLANK)  # blank stands for the start

    def accept(self, features: np.ndarray) -> list[int]:
        """Take features f32 [T, F]; return the tokens they added."""
        before = len(self.tokens)
        for start in range(0, len(features), MAX_ENCODER_FRAMES):
            piece = np.ascontiguousarray(features[None, start : start + MAX_ENCODER_FRAMES])
            projection, *state = self._encoder(piece, *self._encoder_state)
            self._encoder_state = tuple(state)
            for step in range(projection.shape[1]):
                self._emit(np.ascontiguousarray(projection[:, step : step + 1]))
        return self.tokens[before:]

    def _emit(self, frame: np.ndarray) -> None:
        for _ in range(MAX_TOKENS_PER_FRAME):
            logits = self._joint(frame, self._prediction)
            token = int(np.argmax(logits))
            if token == BLANK:
                return
            self.tokens.append(token)
            self._predict(token)

    def _predict(self, token: int) -> None:
        ids = np.array([[token]], np.int64)
        self._prediction, *state = self._predictor(ids, *self._predictor_state)
        self._predictor_state = tuple(state)


def initial_state(
    states: Mapping[str, Mapping[str, Sequence[int]]], network: str
) -> tuple[Any, ...]:
    """Zeros for ``h`` and ``c`` of a network, shapes as the metadata's ``states`` say."""
    try:
        shapes = states[network]["h"], states[network]["c"]
    except (KeyError, TypeError):
        raise Error(
            f"the model's metadata lacks the state shapes of its {network}; export it again"
        ) from None
    return tuple(np.zeros(tuple(shape), np.float32) for shape in shapes)
