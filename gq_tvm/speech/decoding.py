"""Greedy decoding, step by step, of the networks a recogniser may have.

The networks are callables on NumPy arrays, so PyTorch and a compiled model are interchangeable; a
state is the arrays that a network hands on to its next call, all zeros before the first:

- ``encoder(features f32 [1, T, F], *state) -> (projection f32 [1, T, J], *state)``
- ``predictor(token i64 [1, 1], *state) -> (projection f32 [1, 1, J], *state)``
- ``joint(f f32 [1, 1, J], g f32 [1, 1, J]) -> logits f32 [1, 1, V]``

With CTC the encoder is alone, and its projection gives a score to each token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Protocol

import numpy as np

from gq_tvm.speech.tokens import BLANK

Network = Callable[..., Any]
States = Mapping[str, Mapping[str, Sequence[int]]]

MAX_ENCODER_FRAMES = 512  # the longest T a recogniser is exported for
MAX_TOKENS_PER_FRAME = 10  # a model that never says blank must not hang the session


class Decoder(Protocol):
    """Takes features in pieces; ``tokens`` grows. Cutting differently changes nothing."""

    tokens: list[int]

    def accept(self, features: np.ndarray) -> list[int]:
        """Take features f32 [T, F]; return the tokens they added."""


class Stateful:
    """A network that is handed its own state back at each call."""

    def __init__(self, network: Network, states: States, name: str) -> None:
        self._network = network
        shapes = map(tuple, states[name].values())
        self.state = tuple(np.zeros(shape, np.float32) for shape in shapes)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """The first output."""
        y, *state = self._network(x, *self.state)
        self.state = tuple(state)
        return y

    def over(self, features: np.ndarray) -> Iterator[np.ndarray]:
        """The output f32 [1, 1, J] of each frame f32 [T, F], in calls of bounded length."""
        for start in range(0, len(features), MAX_ENCODER_FRAMES):
            y = self(np.ascontiguousarray(features[None, start : start + MAX_ENCODER_FRAMES]))
            for t in range(y.shape[1]):
                yield np.ascontiguousarray(y[:, t : t + 1])


class RNNTDecoder:
    """The likeliest token at each node of the lattice, until it is a blank (Graves 2012)."""

    NETWORKS: ClassVar = ("encoder", "predictor", "joint")
    STATES: ClassVar = ("encoder", "predictor")  # those with a state

    def __init__(self, networks: Mapping[str, Network], states: States) -> None:
        self._encoder = Stateful(networks["encoder"], states, "encoder")
        self._predictor = Stateful(networks["predictor"], states, "predictor")
        self._joint = networks["joint"]
        self.tokens: list[int] = []
        self._predict(BLANK)  # blank stands for the start

    def accept(self, features: np.ndarray) -> list[int]:
        """Take features f32 [T, F]; return the tokens they added."""
        before = len(self.tokens)
        for frame in self._encoder.over(features):
            self._emit(frame)
        return self.tokens[before:]

    def _emit(self, frame: np.ndarray) -> None:
        for _ in range(MAX_TOKENS_PER_FRAME):
            token = int(np.argmax(self._joint(frame, self._prediction)))
            if token == BLANK:
                return
            self.tokens.append(token)
            self._predict(token)

    def _predict(self, token: int) -> None:
        self._prediction = self._predictor(np.array([[token]], np.int64))


class CTCDecoder:
    """The likeliest token at each frame; repeats count once, blanks not (Graves et al. 2006)."""

    NETWORKS: ClassVar = ("encoder",)
    STATES: ClassVar = ("encoder",)

    def __init__(self, networks: Mapping[str, Network], states: States) -> None:
        self._encoder = Stateful(networks["encoder"], states, "encoder")
        self._last = BLANK
        self.tokens: list[int] = []

    def accept(self, features: np.ndarray) -> list[int]:
        """Take features f32 [T, F]; return the tokens they added."""
        before = len(self.tokens)
        for logits in self._encoder.over(features):
            token = int(np.argmax(logits))
            if token not in (BLANK, self._last):
                self.tokens.append(token)
            self._last = token
        return self.tokens[before:]


#: The decoder of each ``task`` a model's metadata may name.
DECODERS: dict[str, type[RNNTDecoder] | type[CTCDecoder]] = {
    "rnnt": RNNTDecoder,
    "ctc": CTCDecoder,
}
