"""Greedy decoding, step by step, of the networks a recogniser may have.

The networks are callables on NumPy arrays, so PyTorch and a compiled model are interchangeable; a
state is the arrays that a network hands on to its next call, all zeros before the first:

- ``encoder(features f32 [1, T, F], *state) -> (projection f32 [1, T, J], *state)``
- ``predictor(token i64 [1, 1], *state) -> (projection f32 [1, 1, J], *state)``
- ``joint(f f32 [1, 1, J], g f32 [1, 1, J]) -> logits f32 [1, 1, V]``

With CTC the encoder is alone, and its projection gives a score to each token.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Protocol

import numpy as np

from gq_tvm.errors import Error
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
        self.state = initial_state(states, name)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """The first output."""
        y, *state = self._network(x, *self.state)
        self.state = tuple(state)
        return y

    def over(self, features: np.ndarray) -> list[np.ndarray]:
        """The outputs f32 [1, 1, J] of all frames f32 [T, F], in calls of bounded length."""
        frames = []
        for start in range(0, len(features), MAX_ENCODER_FRAMES):
            y = self(np.ascontiguousarray(features[None, start : start + MAX_ENCODER_FRAMES]))
            frames += [np.ascontiguousarray(y[:, t : t + 1]) for t in range(y.shape[1])]
        return frames


class RNNTDecoder:
    """The likeliest token at each node of the lattice, until it is a blank (Graves 2012)."""

    NETWORKS: ClassVar = ("encoder", "predictor", "joint")

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


def initial_state(states: States, network: str) -> tuple[np.ndarray, ...]:
    """Zeros for the state of a network, shapes and order as the metadata's ``states`` say."""
    try:
        shapes = [tuple(map(int, shape)) for shape in states[network].values()]
    except (AttributeError, KeyError, TypeError, ValueError):
        raise Error(
            f"the model's metadata lacks the state shapes of its {network}; export it again"
        ) from None
    return tuple(np.zeros(shape, np.float32) for shape in shapes)
