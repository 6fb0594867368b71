"""Transcription by a compiled Whisper: NumPy and the artefact, no PyTorch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import gq_tvm
from examples.whisper.greedy import greedy
from examples.whisper.log_mel import FRAMES, log_mel
from examples.whisper.tokens import CONTEXT, Vocabulary

MODEL = "model.gq"
_ROOM = 64  # tokens the cache holds at first; it doubles when they are used up


class Recogniser:
    """A compiled Whisper, its vocabulary, and the memory it works in."""

    def __init__(self, folder: Path, threads: int | None = None) -> None:
        """Load what ``examples.whisper.compile`` wrote.

        Args:
            folder: The folder it wrote.
            threads: As in ``gq_tvm.load``.

        Raises:
            Error: the folder holds no such model, or one for another CPU.
        """
        self._vocabulary = Vocabulary(folder)
        self._net = gq_tvm.load(folder / MODEL, threads=threads)
        self._features = np.zeros((1, 80, FRAMES), np.float32)
        self._listen = self._net["listen"].bind(self._features)
        self._token, self._position = np.zeros((1, 1), np.int64), np.zeros(1, np.int64)
        self._cache = [np.zeros((1, 0, *one.shape[2:]), np.float32) for one in self._listen.outputs]
        self._give_room(_ROOM)

    def transcribe(self, samples: NDArray[np.float32]) -> str:
        """The text of a recording of at most half a minute: samples at 16 kHz, f32 [n]."""
        return self._vocabulary.text(self.tokens(log_mel(samples)))

    def tokens(self, features: NDArray[np.float32]) -> list[int]:
        """The tokens of a text, from features f32 [1, 80, 3000]."""
        self._features[...] = features
        self._listen()
        return greedy(self._vocabulary, self._step)

    def _step(self, token: int, position: int) -> NDArray[np.float32]:
        if position == self._room:
            self._give_room(min(2 * position, CONTEXT))
        self._token[...], self._position[...] = token, position
        logits, *new = self._run()
        for kept, one in zip(self._cache, new, strict=True):
            kept[:, position] = one[:, 0]
        return logits[0]

    def _give_room(self, room: int) -> None:
        """Tie a step to a cache for so many tokens, with what the one before held."""
        before, self._cache = (
            self._cache,
            [np.zeros((1, room, *one.shape[2:]), np.float32) for one in self._cache],
        )
        for kept, one in zip(self._cache, before, strict=True):
            kept[:, : one.shape[1]] = one
        self._room = room
        heard = self._listen.outputs
        self._run = self._net["step"].bind(self._token, self._position, *heard, *self._cache)
