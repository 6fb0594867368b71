"""Models run by the core, the C++ of `gq_tvm.core`, through its C interface (``gq.h``).

Neither TVM nor a compiler is needed where gq-tvm came as a wheel: the core is in it.
"""

from __future__ import annotations

import ctypes
import os
import threading
import weakref
from collections.abc import Sequence
from functools import cache, partial

import numpy as np

from gq_tvm.core import compiled
from gq_tvm.errors import Error
from gq_tvm.targets import native

_MOST_DIMENSIONS = 6  # GQ_MOST_DIMENSIONS of gq.h


class _Tensor(ctypes.Structure):
    """``gq_tensor``."""

    _fields_ = (
        ("dtype", ctypes.c_char_p),
        ("dimensions", ctypes.c_int),
        ("shape", ctypes.c_int64 * _MOST_DIMENSIONS),
        ("data", ctypes.c_void_p),
    )

    @classmethod
    def of(cls, array: np.ndarray) -> _Tensor:
        if array.ndim > _MOST_DIMENSIONS:
            raise Error(
                f"a tensor has {array.ndim} dimensions, compiled functions take at most "
                f"{_MOST_DIMENSIONS}; reshape it"
            )
        shape = (ctypes.c_int64 * _MOST_DIMENSIONS)(*array.shape)
        return cls(str(array.dtype).encode(), array.ndim, shape, array.ctypes.data)


def _tensors(arrays: Sequence[np.ndarray]) -> ctypes.Array[_Tensor]:
    return (_Tensor * len(arrays))(*map(_Tensor.of, arrays))


_HANDLE, _TENSORS, _DOUBLES = ctypes.c_void_p, ctypes.POINTER(_Tensor), ctypes.c_void_p
_INT, _TEXT = ctypes.c_int, ctypes.c_char_p
# Result and arguments of each function of gq.h; those that return a pointer return None on failure,
# those that return a number -1.
_FUNCTIONS = {
    "gq_error": (_TEXT, []),
    "gq_open": (_HANDLE, [_TEXT, _INT]),
    "gq_close": (None, [_HANDLE]),
    "gq_bind": (_HANDLE, [_HANDLE, _TEXT, _TENSORS, _INT, _TENSORS, _INT, _INT]),
    "gq_run": (_INT, [_HANDLE]),
    "gq_time": (_INT, [_HANDLE, _INT, _DOUBLES, _DOUBLES]),
    "gq_unbind": (None, [_HANDLE]),
    "gq_sample_rate": (_INT, [_HANDLE]),
    "gq_chunk_samples": (ctypes.c_int64, [_HANDLE]),
    "gq_stream_open": (_HANDLE, [_HANDLE]),
    "gq_stream_accept": (_TEXT, [_HANDLE, _HANDLE, ctypes.c_int64]),
    "gq_stream_finish": (_TEXT, [_HANDLE]),
    "gq_stream_close": (None, [_HANDLE]),
}


@cache
def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(str(compiled.provide(native.machine()) / compiled.LIBRARY))
    for name, (result, arguments) in _FUNCTIONS.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


def reason() -> str:
    """What went wrong in the last call of this thread, in a sentence."""
    return _library().gq_error().decode(errors="replace")


class Core:
    """A model that the core has opened.

    Attributes:
        lock: Held by whoever uses it, but for what it has bound.
    """

    def __init__(self, folder: str | os.PathLike[str], threads: int) -> None:
        """Open the model in a folder.

        Raises:
            Error: it is damaged, or not for this CPU.
        """
        library = _library()
        self.lock = threading.Lock()
        self.handle = library.gq_open(os.fsencode(folder), threads)
        if not self.handle:
            raise Error(reason())
        weakref.finalize(self, library.gq_close, self.handle)

    @property
    def sample_rate(self) -> int:
        """Samples a second that a recogniser expects.

        Raises:
            Error: the model is none.
        """
        return _number(_library().gq_sample_rate(self.handle))

    @property
    def chunk_samples(self) -> int:
        """Samples of the pieces in which a recogniser computes.

        Raises:
            Error: the model is none.
        """
        return _number(_library().gq_chunk_samples(self.handle))

    def bind(
        self,
        function: str,
        inputs: Sequence[np.ndarray],
        outputs: Sequence[np.ndarray],
        threads: int,
    ) -> Run:
        """Tie a function to contiguous arrays, which are read and written where they lie.

        Raises:
            Error: the arrays are not what the function wants, or memory is short.
        """
        taken, made = _tensors(inputs), _tensors(outputs)
        handle = _library().gq_bind(
            self.handle, function.encode(), taken, len(inputs), made, len(outputs), threads
        )
        if not handle:
            raise Error(reason())
        return Run(self, handle, (inputs, outputs))


class _Bound(ctypes.c_void_p):
    """``gq_bound *``, and what lives as long."""

    kept: object


class Run:
    """A function tied to memory.

    Attributes:
        run: Runs it; 0, or if it fails something else.
    """

    def __init__(self, core: Core, handle: int, memory: object) -> None:
        """See `Core.bind`."""
        library = _library()
        self._handle = _Bound(handle)
        self._handle.kept = core, memory
        self.run = partial(library.gq_run, self._handle)
        weakref.finalize(self._handle, library.gq_unbind, handle)

    def time(self, runs: int) -> list[float]:
        """The seconds of each of so many runs."""
        seconds = np.empty(runs)
        self._time(runs, seconds.ctypes.data, None)
        return seconds.tolist()

    def time_kernels(self, runs: int, kernels: int) -> np.ndarray:
        """The seconds f64 [runs, kernels] of each kernel in so many runs, in the plan's order."""
        seconds, found = np.empty(runs), np.empty((runs, kernels))
        self._time(runs, seconds.ctypes.data, found.ctypes.data)
        return found

    def _time(self, runs: int, seconds: int, kernels: int | None) -> None:
        if _library().gq_time(self._handle, runs, seconds, kernels):
            raise Error(reason())


class Stream:
    """Recognises speech while it arrives, by a recogniser that the core has opened."""

    def __init__(self, core: Core) -> None:
        """Begin to listen.

        Raises:
            Error: the model is no recogniser.
        """
        library = _library()
        self._core = core
        with core.lock:
            self._handle = library.gq_stream_open(core.handle)
        if not self._handle:
            raise Error(reason())
        weakref.finalize(self, library.gq_stream_close, self._handle)

    def accept(self, samples: np.ndarray) -> str:
        """Take the next samples, contiguous f32 [n] in [-1, 1]; return the text so far.

        Raises:
            Error: there are samples that are no sound; nothing has changed then.
        """
        accept = _library().gq_stream_accept
        with self._core.lock:
            return _text(accept(self._handle, samples.ctypes.data, samples.size))

    def finish(self) -> str:
        """Return the whole text; what comes then is another recording."""
        with self._core.lock:
            return _text(_library().gq_stream_finish(self._handle))


def _number(answer: int) -> int:
    if answer < 0:
        raise Error(reason())
    return answer


def _text(answer: bytes | None) -> str:
    if answer is None:
        raise Error(reason())
    return answer.decode()
