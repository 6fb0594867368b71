"""Samples in, text out: features, decoder and tokens of one model put together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from gq_tvm.errors import Error
from gq_tvm.speech import tokens
from gq_tvm.speech.decoding import DECODERS, Decoder, Network
from gq_tvm.speech.description import RecogniserDescription
from gq_tvm.speech.features import FeatureStream
from gq_tvm.speech.samples import check_samples


class Recogniser:
    """A speech recogniser from a model's metadata and its networks.

    ``metadata`` is the ``gq_metadata.json`` of the model, the networks by name are callables on
    NumPy arrays (see :mod:`gq_tvm.speech.decoding`). Raises Error when the metadata describes
    neither an RNN transducer nor CTC, a value of it cannot be, or a network is missing.
    """

    def __init__(self, metadata: Mapping[str, Any], networks: Mapping[str, Network]):
        self.metadata = metadata
        self._description = described = RecogniserDescription.read(metadata)
        self._decoding = DECODERS[described.task]
        if absent := [name for name in self._decoding.NETWORKS if name not in networks]:
            raise Error(f"the model has no {' and no '.join(absent)}; export it again")
        self.settings = described.features
        self.chunk_frames = described.chunk_frames
        self._tokens = described.tokens
        # Silence lets the networks settle before the first word, and lets the last word out.
        self._lead = np.zeros(described.lead, np.float32)
        self._tail = np.zeros(described.tail, np.float32)
        self._networks = networks

    @property
    def sample_rate(self) -> int:
        """Samples a second that the model expects."""
        return self.settings.sample_rate

    @property
    def chunk_samples(self) -> int:
        """Samples in the piece a streaming session hands to the encoder."""
        return self.chunk_frames * self.settings.stacked_frame_samples

    def transcribe(self, samples: np.ndarray) -> str:
        """The text of a whole recording f32 [n] in [-1, 1] at :attr:`sample_rate`."""
        stream = FeatureStream(self.settings)
        whole = np.concatenate([self._lead, check_samples(samples), self._tail])
        decoder = self._decoder()
        decoder.accept(stream.accept(whole))
        return tokens.decode(decoder.tokens, self._tokens)

    def session(self) -> Session:
        """A new streaming session, independent of all others."""
        return Session(self)

    def _decoder(self) -> Decoder:
        return self._decoding(self._networks, self._description.states)


class Session:
    """Recognises speech while it arrives; gives what :meth:`Recogniser.transcribe` gives."""

    def __init__(self, recogniser: Recogniser):
        self._recogniser = recogniser
        self._stream = FeatureStream(recogniser.settings)
        self._decoder = recogniser._decoder()
        self._waiting = np.empty((0, recogniser.settings.size), np.float32)
        self._text = ""  # but for spaces at its end: they come between words, if there are more
        self._finished = False
        self.accept(recogniser._lead)

    @property
    def text(self) -> str:
        """What has been recognised so far."""
        return self._text.rstrip()

    def accept(self, samples: np.ndarray) -> str:
        """Take the next samples f32 [n], any number of them; return the text so far."""
        self._check_open()
        self._waiting = np.concatenate([self._waiting, self._stream.accept(samples)])
        chunk = self._recogniser.chunk_frames
        while len(self._waiting) >= chunk:
            self._recognise(self._waiting[:chunk])
            self._waiting = self._waiting[chunk:]
        return self.text

    def finish(self) -> str:
        """Recognise what is still waiting and return the whole text; ends the session."""
        self._check_open()
        self.accept(self._recogniser._tail)
        self._recognise(self._waiting)
        self._finished = True
        return self.text

    def _recognise(self, features: np.ndarray) -> None:
        """Only what is new is spelled: a chunk costs the same after an hour."""
        if new := self._decoder.accept(features):
            self._text = (self._text + tokens.spell(new, self._recogniser._tokens)).lstrip()

    def _check_open(self) -> None:
        if self._finished:
            raise Error("this session is finished; start another with recogniser.session()")
