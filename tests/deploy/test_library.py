"""libgq.so as a program of one's own uses it."""

from __future__ import annotations

import ctypes
import threading

import numpy as np
import pytest
from helpers.bundled import replanned, with_functions

from gq_tvm.speech import audio

pytestmark = pytest.mark.native


class Tensor(ctypes.Structure):
    """``gq_tensor``."""

    _fields_ = (
        ("dtype", ctypes.c_char_p),
        ("dimensions", ctypes.c_int),
        ("shape", ctypes.c_int64 * 6),
        ("data", ctypes.c_void_p),
    )

    @classmethod
    def of(cls, array: np.ndarray) -> Tensor:
        shape = (ctypes.c_int64 * 6)(*array.shape)
        return cls(str(array.dtype).encode(), array.ndim, shape, array.ctypes.data)

    def array(self) -> np.ndarray:
        shape = tuple(self.shape[: self.dimensions])
        pointer = ctypes.cast(self.data, ctypes.POINTER(ctypes.c_float))
        return np.ctypeslib.as_array(pointer, shape)


@pytest.fixture(scope="module")
def library(recogniser):
    library = ctypes.CDLL(str(recogniser / "bundle" / "libgq.so"))
    for name in ("gq_open", "gq_stream_open"):
        getattr(library, name).restype = ctypes.c_void_p
    for name in ("gq_error", "gq_stream_accept", "gq_stream_finish"):
        getattr(library, name).restype = ctypes.c_char_p
    return library


@pytest.fixture
def model(library, recogniser):
    model = ctypes.c_void_p(library.gq_open(bytes(recogniser / "bundle"), 1))
    assert model, library.gq_error()
    yield model
    library.gq_close(model)


def accept(library, stream, samples: np.ndarray) -> bytes | None:
    return library.gq_stream_accept(
        stream, samples.ctypes.data_as(ctypes.c_void_p), ctypes.c_int64(len(samples))
    )


def test_text_only_grows_and_a_stream_is_used_again(library, model, recordings):
    samples = audio.read(recordings[0], library.gq_sample_rate(model))
    stream = ctypes.c_void_p(library.gq_stream_open(model))
    wholes = []
    for piece in (320, 4000):
        text = b""
        for at in range(0, len(samples), piece):
            now = accept(library, stream, samples[at : at + piece])
            assert now is not None
            assert now.startswith(text)
            assert now == now.strip()
            text = now
        wholes.append(library.gq_stream_finish(stream))
        assert wholes[-1].startswith(text)
    assert wholes[0] == wholes[1] != b""
    library.gq_stream_close(stream)


def test_damaged_samples_change_nothing(library, model, recordings):
    samples = audio.read(recordings[0], 8000)
    stream = ctypes.c_void_p(library.gq_stream_open(model))
    accept(library, stream, samples[:9000])
    for bad, word in ((np.nan, "NaN"), (np.inf, "inf"), (-2e29, "-2e+29")):
        assert accept(library, stream, np.full(1000, bad, np.float32)) is None
        assert library.gq_error().decode() == (
            f"the samples hold {word}, audio lies in [-1, 1]; check the recording"
        )
    accept(library, stream, samples[9000:])
    text = library.gq_stream_finish(stream)
    accept(library, stream, samples)
    assert library.gq_stream_finish(stream) == text
    library.gq_stream_close(stream)


def test_models_are_opened_and_used_by_many_threads_at_once(library, recogniser, recordings):
    samples = audio.read(recordings[0], 8000)
    texts = []

    def recognise() -> None:
        for _ in range(3):
            model = ctypes.c_void_p(library.gq_open(bytes(recogniser / "bundle"), 2))
            stream = ctypes.c_void_p(library.gq_stream_open(model))
            accept(library, stream, samples)
            texts.append(library.gq_stream_finish(stream))
            library.gq_stream_close(stream)
            library.gq_close(model)

    threads = [threading.Thread(target=recognise) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(texts) == 12
    assert len(set(texts)) == 1
    assert texts[0]


def joint(library, model, inputs: list[np.ndarray], count: int = 1) -> np.ndarray | str:
    """What the function joint answers, or why not."""
    given, made = (Tensor * 3)(*map(Tensor.of, inputs)), (Tensor * 3)()
    if library.gq_call(model, b"joint", given, len(inputs), made, count):
        return library.gq_error().decode()
    return made[0].array()


def test_misuse_is_a_sentence(library, model, tmp_path):
    good = np.zeros((1, 1, 96), np.float32)
    assert np.isfinite(joint(library, model, [good, good])).all()
    for inputs, count, reason in (
        ([good], 1, "joint takes 2 inputs, got 1"),
        ([good, good], 2, "joint has 1 outputs"),
        ([good, good.astype("f2")], 1, "has the dtype float16, give float32"),
        ([good, good.astype("c8")], 1, "input 1 has the dtype complex64, which nobody knows"),
    ):
        assert reason in joint(library, model, inputs, count)
    without = Tensor.of(good)
    without.data = None
    pair = (Tensor * 2)(without, without)
    assert library.gq_call(model, b"joint", pair, 2, (Tensor * 1)(), 1) == -1
    assert b"input f of joint has no data; give its address" in library.gq_error()
    assert library.gq_call(model, b"joint", None, 2, None, 1) == -1
    assert library.gq_sample_rate(None) == -1
    assert library.gq_stream_open(None) is None
    assert library.gq_stream_finish(None) is None
    assert b"gq_stream_finish needs a stream" in library.gq_error()
    assert library.gq_open(bytes(tmp_path), 1) is None
    assert b"plan.txt cannot be read" in library.gq_error()


def test_inputs_that_a_function_returns_may_be_given_back_in_another_order(
    library, recogniser, tmp_path
):
    """As a caller does that hands a state on: the outputs are the model's own inputs."""
    lines = ["function same 0 0"]
    lines += [f"value {i} input float32 {i} {name} 2" for i, name in enumerate("ab")]
    lines += ["inputs 0 1", "outputs 0 1", ""]
    folder = replanned(
        recogniser / "bundle",
        tmp_path / "bundle",
        lambda text: with_functions(text, "\n".join(lines)),
    )
    model = ctypes.c_void_p(library.gq_open(bytes(folder), 1))
    a, b = (np.full(2, value, np.float32) for value in (1, 2))
    made, again = (Tensor * 2)(), (Tensor * 2)()
    given = (Tensor * 2)(Tensor.of(a), Tensor.of(b))
    assert library.gq_call(model, b"same", given, 2, made, 2) == 0, library.gq_error()
    crossed = (Tensor * 2)(made[1], made[0])
    assert library.gq_call(model, b"same", crossed, 2, again, 2) == 0
    np.testing.assert_array_equal(again[0].array(), b)
    np.testing.assert_array_equal(again[1].array(), a)
    library.gq_close(model)
