"""Models run by the core, the C++ of `gq_tvm.deploy.native`, through its C interface (``gq.h``).

Neither TVM nor a compiler is needed where gq-tvm came as a wheel: the core is in it.
"""

from __future__ import annotations

import ctypes
import os
import platform
import weakref
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path

import numpy as np

from gq_tvm.deploy import native_code
from gq_tvm.errors import Error

_MOST_DIMENSIONS = 6  # GQ_MOST_DIMENSIONS of gq.h
ALIGNMENT = 64  # bytes; what kernels assume of every tensor


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
    library = ctypes.CDLL(str(native_code.provide(platform.machine()) / native_code.LIBRARY))
    for name, (result, arguments) in _FUNCTIONS.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


def reason() -> str:
    """What went wrong in the last call of this thread."""
    return _library().gq_error().decode(errors="replace")


class Core:
    """A model that the core has opened; for one thread at a time but for what it has bound.

    Raises:
        Error: the folder holds no whole model for this CPU.
    """

    def __init__(self, folder: str | os.PathLike[str], threads: int) -> None:
        library = _library()
        self.handle = library.gq_open(os.fsencode(folder), threads)
        if not self.handle:
            raise Error(reason())
        weakref.finalize(self, library.gq_close, self.handle)

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


class Run:
    """A function tied to memory; ``run()`` is 0, or what is not, with the cause in `reason`."""

    def __init__(self, core: Core, handle: int, memory: object) -> None:
        library = _library()
        self._kept = core, memory
        self._handle = ctypes.c_void_p(handle)
        self.run = partial(library.gq_run, self._handle)
        weakref.finalize(self, library.gq_unbind, self._handle)

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


class Listener:
    """Recognises speech while it arrives, by a recogniser that the core has opened.

    Raises:
        Error: the model is none.
    """

    def __init__(self, core: Core) -> None:
        library = _library()
        self._core = core
        self.sample_rate = library.gq_sample_rate(core.handle)
        self.chunk_samples = library.gq_chunk_samples(core.handle)
        self._handle = library.gq_stream_open(core.handle)
        if not self._handle:
            raise Error(reason())
        weakref.finalize(self, library.gq_stream_close, self._handle)

    def accept(self, samples: np.ndarray) -> str:
        """Take the next samples f32 [n] in [-1, 1]; return the text so far.

        Raises:
            Error: there are samples that are no sound; nothing has changed then.
        """
        samples = np.ascontiguousarray(samples, np.float32)
        accept = _library().gq_stream_accept
        return _text(accept(self._handle, samples.ctypes.data, samples.size))

    def finish(self) -> str:
        """Return the whole text; what comes then is another recording."""
        return _text(_library().gq_stream_finish(self._handle))


def _text(answer: bytes | None) -> str:
    if answer is None:
        raise Error(reason())
    return answer.decode()
