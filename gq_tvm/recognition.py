"""Speech recognisers that were compiled: samples in, text out."""

from __future__ import annotations

from typing import Any

import numpy as np

from gq_tvm.core.binding import Core, Stream
from gq_tvm.errors import Error
from gq_tvm.runtime.model import Model
from gq_tvm.speech.decoding import DECODERS
from gq_tvm.speech.samples import check_samples


def recogniser_of(net: Model, name: str) -> Any:
    """Return the recogniser that a loaded model is.

    It has the methods of `gq_tvm.speech.Recogniser`. In this process the core does all, on a device
    of TVM's only the networks are run there.

    Raises:
        Error: the model is no recogniser; the text calls it ``name``.
    """
    metadata = net.metadata if isinstance(net.metadata, dict) else {}
    task = metadata.get("task")
    decoding = DECODERS.get(task) if isinstance(task, str) else None
    if decoding is None or not set(decoding.NETWORKS) <= set(net.functions):
        raise Error(
            f"{name} is no speech recogniser (it has the functions {', '.join(net.functions)}); "
            "compile what python -m gq_tvm.train exported"
        )
    if isinstance(net.runner, Core):
        return CoreRecogniser(net.runner)
    from gq_tvm.speech.recogniser import Recogniser

    return Recogniser(metadata, {part: net[part] for part in decoding.NETWORKS})


class CoreRecogniser:
    """A recogniser run by the core, log-mel features and decoding included.

    Attributes:
        sample_rate: Samples a second that it expects.
        chunk_samples: Samples of the pieces in which it computes.
    """

    def __init__(self, core: Core) -> None:
        """Raises `Error` if the model describes none."""
        self._core = core
        self.sample_rate = core.sample_rate
        self.chunk_samples = core.chunk_samples

    def transcribe(self, samples: np.ndarray) -> str:
        """The text of a whole recording f32 [n] in [-1, 1] at `sample_rate`."""
        session = self.session()
        session.accept(samples)
        return session.finish()

    def session(self) -> CoreSession:
        """A new streaming session, independent of all others."""
        return CoreSession(self._core)


class CoreSession:
    """Recognises speech while it arrives; gives what `CoreRecogniser.transcribe` gives.

    Attributes:
        text: What has been recognised so far.
    """

    def __init__(self, core: Core) -> None:
        """See `CoreRecogniser.session`."""
        self.text = ""
        self._stream: Stream | None = Stream(core)

    def accept(self, samples: np.ndarray) -> str:
        """Take the next samples f32 [n], any number of them; return the text so far."""
        self.text = self._open().accept(check_samples(samples))
        return self.text

    def finish(self) -> str:
        """Recognise what is still waiting and return the whole text; ends the session."""
        self.text = self._open().finish()
        self._stream = None
        return self.text

    def _open(self) -> Stream:
        if self._stream is None:
            raise Error("this session is finished; start another with recogniser.session()")
        return self._stream
