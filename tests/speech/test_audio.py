from __future__ import annotations

import os
import struct
import warnings

import numpy as np
import pytest
import soundfile

from gq_tvm.errors import Error
from gq_tvm.speech import audio
from gq_tvm.speech.samples import LOUDEST


def tone(hertz: float, rate: int, seconds: float = 0.5) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(rate * seconds)) / rate)).astype("f4")


def wav(data: bytes, size: int | None = None, rate: int = 8000) -> bytes:
    """A file of 16-bit samples in one channel, whose header may lie about them."""
    size = len(data) if size is None else size
    form = struct.pack("<IHHIIHH", 16, 1, 1, rate, 2 * rate, 2, 16)
    return b"RIFF\x24\0\0\0WAVEfmt " + form + b"data" + struct.pack("<I", size) + data


TONE = (tone(440, 8000) * 32767).astype("<i2")


def test_reading_mixes_channels_and_resamples(tmp_path):
    path = tmp_path / "a.wav"
    left = tone(440, 16000)
    soundfile.write(path, np.stack([left, np.zeros_like(left)], axis=1), 16000)
    samples = audio.read(path, 8000)
    assert samples.dtype == np.float32
    assert np.abs(samples - tone(440, 8000) / 2)[400:-400].max() < 0.01


def test_what_is_written_is_read_whatever_bytes_its_name_is_of(tmp_path):
    path = tmp_path / os.fsdecode(b"Andr\xe9.wav")
    audio.write(path, tone(100, 8000), 8000)
    assert audio.duration(path) == 0.5
    assert np.abs(audio.read(path, 8000) - tone(100, 8000)).max() < 1e-4


@pytest.mark.parametrize("samples", [0, 5000, 8000, 64 * 10**9])
def test_a_length_is_what_is_there_and_not_what_the_header_says(tmp_path, samples):
    """0 is that of a stream, whose length nobody knew."""
    path = tmp_path / "a.flac"
    soundfile.write(path, tone(440, 8000), 8000)
    content = bytearray(path.read_bytes())
    field = int.from_bytes(content[18:26], "big") >> 36 << 36 | samples  # 36 bits of STREAMINFO
    content[18:26] = field.to_bytes(8, "big")
    path.write_bytes(content)
    assert len(audio.read(path, 8000)) == 8000 * audio.duration(path) == 4000


@pytest.mark.parametrize("kind", ["MS_ADPCM", "GSM610", "G721_32"])
def test_the_padding_of_a_last_block_is_no_sound(tmp_path, kind):
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(440, 8000)[:-3], 8000, subtype=kind)
    assert len(audio.read(path, 8000)) == 8000 * audio.duration(path) == 3997
    with open(path, "rb") as file:
        assert len(audio.read(f"/dev/fd/{file.fileno()}", 8000)) == 3997
    soundfile.write(path, tone(440, 8000)[:-3], 8000, subtype="IMA_ADPCM")  # says 4040 itself
    assert len(audio.read(path, 8000)) == 8000 * audio.duration(path) == 4040


@pytest.mark.parametrize("told", [0, 1, 3000, 2**32 - 1])
def test_a_length_that_does_not_end_in_the_last_block_is_not_believed(tmp_path, told):
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(440, 8000), 8000, subtype="GSM610")
    content = bytearray(path.read_bytes())
    at = content.index(b"fact") + 8
    content[at : at + 4] = told.to_bytes(4, "little")
    path.write_bytes(content)
    assert len(audio.read(path, 8000)) == 8000 * audio.duration(path) == soundfile.info(path).frames


@pytest.mark.parametrize("size", [0, 0x7FFFFFFF, 0xFFFFFFFF])
def test_a_recorder_that_was_killed_leaves_its_samples(tmp_path, size):
    path = tmp_path / "a.wav"
    path.write_bytes(wav(TONE.tobytes() + b"x", size))
    assert audio.duration(path) == 0.5
    assert np.array_equal(audio.read(path, 8000) * 32768, TONE)
    large = b"ds64" + struct.pack("<IQQQI", 28, 0, 0, 0, 0)  # RF64: more than 4 GiB foreseen
    content = wav(TONE.tobytes(), 0xFFFFFFFF)
    path.write_bytes(b"RF64" + content[4:12] + large + content[12:])
    assert np.array_equal(audio.read(path, 8000) * 32768, TONE)


def test_pipes_are_read(tmp_path):
    """Also those of a process substitution, and /dev/stdin."""
    reading, writing = os.pipe()
    os.write(writing, wav(TONE.tobytes()))
    os.close(writing)
    assert len(audio.read(f"/dev/fd/{reading}", 8000)) == 4000
    os.close(reading)


HEADER = "cannot be read as audio"
REFUSED = {
    "empty": (b"", HEADER),
    "header": (b"RIFFxxxxWAVE", HEADER),
    "text": (b"not audio at all" * 100, HEADER),
    "none": (wav(b""), "holds no samples; record it again"),
    "a chunk behind none": (wav(b"LIST\x04\0\0\0abcd", 0), "holds no samples; record it again"),
    "slow": (wav(TONE.tobytes(), rate=7), "says it has 7 samples a second, which is damage"),
    "fast": (wav(TONE.tobytes(), rate=1 << 30), "says it has 1073741824 samples a second"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_damaged_recordings(tmp_path, name):
    content, words = REFUSED[name]
    path = tmp_path / "a.raw"  # a name that soundfile has ideas about
    path.write_bytes(content)
    with pytest.raises(Error, match=words):
        audio.read(path, 8000)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("a.wav", "no such file; check the path"),
        ("a\0b.wav", "no such file; check the path"),
        ("a" * 300, r"cannot be read \(File name too long\); check it"),
        (".", "is a folder; name a recording inside it"),
        ("/dev/zero", "is a device"),
    ],
)
def test_names_that_are_no_recordings(tmp_path, name, words):
    for call in (audio.duration, lambda path: audio.read(path, 8000)):
        with pytest.raises(Error, match=words):
            call(tmp_path / name)


@pytest.mark.parametrize(
    ("value", "named"), [(np.nan, "NaN"), (-np.inf, "-inf"), (1.01 * LOUDEST, r"1\.01e\+10")]
)
def test_samples_that_are_no_sound_are_named_with_their_time(tmp_path, value, named):
    samples = np.zeros((8000, 2))
    samples[4000, 1] = value
    soundfile.write(tmp_path / "a.wav", samples, 16000, subtype="FLOAT")
    with pytest.raises(Error, match=rf"a sample of {named} at 0\.250 s, audio lies in"):
        audio.read(tmp_path / "a.wav", 8000)


def test_channels_that_cancel_each_other_are_noted(tmp_path):
    path = tmp_path / "a.wav"
    notes: list[str] = []
    for right, words in ((-1, ["cancel each other; give one of them"]), (-0.99, []), (0, [])):
        samples = np.stack([tone(440, 8000), right * tone(440, 8000)], axis=1)
        soundfile.write(path, samples, 8000)
        audio.read(path, 8000, notes.append)
        assert len(notes) == len(words)
        assert all(note.endswith(one) for note, one in zip(notes, words, strict=True))
        notes.clear()
    soundfile.write(path, np.zeros((10, 2)), 8000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        audio.read(path, 8000)
