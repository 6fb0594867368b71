"""What gq-run makes of recordings: good ones, damaged ones, many at once."""

from __future__ import annotations

import ctypes
import platform
import re
import struct
import subprocess
from typing import Any

import numpy as np
import pytest
import soundfile
from helpers.bundled import run

from gq_tvm import cache
from gq_tvm.core.compiled import SOURCES
from gq_tvm.speech import audio
from gq_tvm.speech.resampling import resample
from gq_tvm.toolchain.zig import compile_native

pytestmark = pytest.mark.native


@pytest.fixture(scope="module")
def text(recogniser, recordings) -> str:
    """What the first recording says."""
    return run(recogniser / "bundle" / "gq-run", recordings[0]).stdout.strip()


def wav(*chunks: tuple[bytes, bytes]) -> bytes:
    body = b"".join(name + struct.pack("<I", len(data)) + data for name, data in chunks)
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WAVE" + body


def pcm(channels=1, rate=8000, bits=16, code=1) -> tuple[bytes, bytes]:
    return b"fmt ", struct.pack("<HHIIHH", code, channels, rate, 0, 0, bits)


def test_every_kind_of_samples_is_read(recogniser, recordings, text, tmp_path):
    samples, rate = soundfile.read(recordings[0], dtype="float32")
    for kind in ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW"):
        for container in ("WAV", "WAVEX", "RF64"):
            path = tmp_path / f"{kind}-{container}.wav"
            soundfile.write(path, samples, rate, subtype=kind, format=container)
    scaled = samples * np.float32(2**31)  # as 32-bit integers are
    soundfile.write(tmp_path / "integers.wav", scaled, rate, subtype="FLOAT")
    soundfile.write(tmp_path / "channels.wav", np.stack([samples, 0 * samples], 1), rate)
    data = (samples * 32767).astype("<i2").tobytes()
    whole = wav(pcm(rate=rate), (b"data", data))
    start = len(whole) - len(data) - 4
    for name, size in {"killed": 0, "unknown": 2**32 - 1, "too-large": 2**31}.items():
        changed = whole[:start] + struct.pack("<I", size) + data
        (tmp_path / f"{name}.wav").write_bytes(changed)
    (tmp_path / "cut.wav").write_bytes(whole[:-3])
    (tmp_path / "late.wav").write_bytes(
        wav((b"LIST", b"abc\0"), pcm(rate=rate), (b"junk", bytes(40)), (b"data", data))
    )
    paths = sorted(tmp_path.glob("*.wav"))
    done = run(recogniser / "bundle" / "gq-run", *paths)
    assert done.stdout.splitlines() == [text] * len(paths), [path.name for path in paths]
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("rate", [7999, 16000, 44100, 96000])
def test_other_rates_are_resampled(recogniser, recordings, text, tmp_path, rate):
    audio.write(tmp_path / "other.wav", audio.read(recordings[0], rate), rate)
    done = run(recogniser / "bundle" / "gq-run", tmp_path / "other.wav")
    assert done.stdout.strip() == text


DAMAGED: dict[str, tuple[Any, str]] = {
    "short.wav": (b"RIFF", "is no WAV file; convert it"),
    "raw.raw": (bytes(1000), "is no WAV file; convert it"),
    "order.wav": (wav((b"data", bytes(8)), pcm()), "a WAV file of format 0, which is not known"),
    "channels.wav": (wav(pcm(channels=0), (b"data", bytes(8))), "a WAV file of no channels"),
    "bits.wav": (wav(pcm(bits=40), (b"data", bytes(8))), "of integers of 40 bits, which is not"),
    "adpcm.wav": (wav(pcm(code=17), (b"data", bytes(8))), "ADPCM of the IMA's kind, which is not"),
    "gsm.wav": (wav(pcm(code=49), (b"data", bytes(8))), "GSM 6.10, which is not known here; conv"),
    "slow.wav": (wav(pcm(rate=1), (b"data", bytes(8))), "says it has 1 samples a second, which"),
    "fast.wav": (wav(pcm(rate=2**31), (b"data", bytes(8))), "says it has 2147483648 samples a s"),
    "wide.wav": (wav(pcm(channels=65535), (b"data", bytes(8))), "holds no samples; record it"),
    "none.wav": (wav(pcm(rate=2**32 - 9)), "holds no samples; record it again"),
    "cut.wav": (wav(pcm())[:-1], "holds no samples; record it again"),
    "empty.wav": (wav(pcm(), (b"data", b"")), "holds no samples; record it again"),
    "list.wav": (wav(pcm(), (b"data", b""), (b"LIST", bytes(4))), "holds no samples; record it"),
    "nan.wav": (np.float32(np.nan), "nan.wav holds a sample of NaN at 0.500 s, audio lies in"),
    "spike.wav": (np.float32(2e29), "spike.wav holds a sample of 2e+29 at 0.500 s, audio lies"),
    "double.wav": (np.float64(-1e300), "double.wav holds a sample of -inf at 0.500 s, audio lies"),
}


def test_damaged_recordings_cost_only_themselves(recogniser, recordings, text, tmp_path):
    for name, (content, _) in DAMAGED.items():
        if isinstance(content, bytes):
            (tmp_path / name).write_bytes(content)
            continue
        samples = np.zeros((5000, 2), content.dtype)
        samples[4000, 1] = content
        kind = "DOUBLE" if content.dtype == "f8" else "FLOAT"
        soundfile.write(tmp_path / name, samples, 8000, subtype=kind)
    missing = tmp_path / "missing.wav", tmp_path
    paths = [recordings[0], *(tmp_path / name for name in DAMAGED), *missing, recordings[0]]
    done = run(recogniser / "bundle" / "gq-run", *paths)
    assert done.returncode == 2
    assert done.stdout.splitlines() == [text, *[""] * (len(paths) - 2), text]
    reasons = [reason for _, reason in DAMAGED.values()]
    reasons += ["missing.wav: there is no such file", "is a folder; name a recording inside it"]
    for line, path, reason in zip(done.stderr.splitlines(), paths[1:], reasons, strict=False):
        assert line.startswith(f"error: {path}")
        assert reason in line
    assert done.stderr.count("\n") == len(reasons)


def test_channels_of_opposite_phase_are_noticed(recogniser, recordings, tmp_path):
    samples, rate = soundfile.read(recordings[0])
    soundfile.write(tmp_path / "a.wav", np.stack([samples, -samples], 1), rate, subtype="FLOAT")
    soundfile.write(tmp_path / "b.wav", np.zeros((rate, 2)), rate)
    done = run(recogniser / "bundle" / "gq-run", "a.wav", "b.wav", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "\n\n")
    assert done.stderr == "note: the channels of a.wav cancel each other; give one of them\n"


def test_text_that_cannot_be_written_is_an_error(recogniser, recordings):
    program = recogniser / "bundle" / "gq-run"
    for words in ([recordings[0], recordings[0]], ["--list"], ["--help"]):
        with open("/dev/full", "w") as full:
            done = subprocess.run([program, *words], stdout=full, stderr=-1, text=True, check=False)
        assert done.returncode == 2
        assert done.stderr == (
            "error: standard output cannot be written (No space left on device); send it "
            "elsewhere\n"
        )


def test_profile_counts_reading_and_names_layers(recogniser, recordings, tmp_path):
    audio.write(tmp_path / "a.wav", audio.read(recordings[0], 44100), 44100)
    done = run(recogniser / "bundle" / "gq-run", "--profile", tmp_path / "a.wav")
    times = re.search(r"audio in ([\d.]+) ms \(reading and sample rate ([\d.]+) ms\)", done.stderr)
    assert times
    assert 0 < float(times[2]) < float(times[1])
    rows = re.findall(
        r"^(\w+) (\S+) +(\d+) runs +([\d.]+) us median +([\d.]+)%$", done.stderr, re.M
    )
    layers = {layer: int(runs) for _, layer, runs, *_ in rows}
    assert {"encoder.lstm.0", "encoder.lstm.1", "predictor.embedding", "joint.output"} <= set(
        layers
    )
    assert layers["encoder.lstm.0"] == layers["encoder.lstm.1"] > 1
    assert sum(float(share) for *_, share in rows) == pytest.approx(100, abs=1)


WRAPPER = """
#include "audio/resample.h"
extern "C" __attribute__((visibility("default"))) size_t resampled(
    int rate, int new_rate, const float* x, size_t count, size_t piece, float* y) {
  gq::Resampler resampler(rate, new_rate);
  std::vector<float> made;
  for (size_t at = 0; at < count; at += piece)
    resampler.accept(x + at, at + piece < count ? piece : count - at, made);
  resampler.finish(made);
  for (size_t i = 0; i < made.size(); ++i) y[i] = made[i];
  return made.size();
}
"""


@pytest.fixture(scope="module")
def resampled(recogniser, tmp_path_factory):
    """gq-run's resampling as a function of NumPy arrays."""
    folder = tmp_path_factory.mktemp("resampled")
    (folder / "wrapper.cc").write_text(WRAPPER)
    sources = [folder / "wrapper.cc", SOURCES / "audio/resample.cc"]
    options = ["-std=c++17", "-shared", "-fPIC"]
    kept = cache.root() / "zig"  # has the C++ library since the bundle was made
    compile_native(sources, folder / "lib.so", platform.machine(), [SOURCES], options, kept)
    library = ctypes.CDLL(str(folder / "lib.so"))
    library.resampled.restype = ctypes.c_size_t

    def call(x: np.ndarray, rate: int, new_rate: int, piece: int) -> np.ndarray:
        x, y = x.astype(np.float32), np.zeros(len(x) * new_rate // rate + 2, np.float32)
        pointers = [array.ctypes.data_as(ctypes.c_void_p) for array in (x, y)]
        sizes = [ctypes.c_size_t(size) for size in (len(x), piece)]
        count = library.resampled(rate, new_rate, pointers[0], *sizes, pointers[1])
        return y[:count]

    return call


def windowed_sinc(x: np.ndarray, rate: int, new_rate: int) -> np.ndarray:
    """Every output as the sum of 24 crossings of a sinc on either side, in float64."""
    cut = min(1.0, new_rate / rate)
    at = np.arange(round(len(x) * new_rate / rate)) * rate / new_rate
    t = at[:, None] - np.arange(len(x))
    window = np.where(np.abs(t) <= 24 / cut, 0.5 + 0.5 * np.cos(np.pi * t * cut / 24), 0)
    return (cut * np.sinc(t * cut) * window) @ x


@pytest.mark.parametrize(
    ("rate", "new_rate"),
    [(16000, 8000), (8000, 16000), (44100, 8000), (11025, 16000), (7999, 8000), (96000, 16000)],
)
def test_resampling_is_a_windowed_sinc_however_it_is_cut(resampled, rate, new_rate):
    x = np.random.default_rng(0).uniform(-1, 1, 600)
    exact = windowed_sinc(x.astype(np.float32), rate, new_rate)
    whole = resampled(x, rate, new_rate, len(x))
    assert whole.shape == exact.shape
    assert np.abs(whole - exact).max() < 3e-6
    np.testing.assert_array_equal(resampled(x, rate, new_rate, 7), whole)


def test_resampling_is_that_of_python(resampled, recordings):
    """They differ where both cut off, near half the lower rate."""
    for rate, new_rate in ((44100, 8000), (16000, 8000), (8000, 16000)):
        for top, bound in ((8000, 0.1), (7000, 1e-3)):  # twice the highest frequency
            x = resample(audio.read(recordings[0], top), top, rate)
            ours, python = resampled(x, rate, new_rate, 4096), resample(x, rate, new_rate)
            assert abs(len(ours) - len(python)) <= 1
            both = min(len(ours), len(python))
            error = np.linalg.norm(ours[:both] - python[:both]) / np.linalg.norm(python)
            assert error < bound, (rate, new_rate, top)
