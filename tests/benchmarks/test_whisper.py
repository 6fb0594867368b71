"""benchmarks/whisper: which recordings, what whisper.cpp is given, what the table says."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.accuracy.statistics import Errors
from benchmarks.whisper import clips, ggml_file, report
from examples.whisper.network import Sizes, Whisper
from gq_tvm.errors import Error
from gq_tvm.speech import audio

TEXTS = """\
; a comment
a/long-one: Please enter the number you wish to call.
beep: [this is an error beep tone]
digits: You have 2 new messages waiting here.
never-recorded: This one has enough words too.
short: Thank you very much.
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Unpacked packages; what is G.722 is never decoded."""
    texts, prompts = tmp_path / clips._PROMPT_TEXTS, tmp_path / clips._PROMPTS
    book = tmp_path / clips._BOOK
    for one in (texts.parent, prompts / "a", book):
        one.mkdir(parents=True)
    texts.write_bytes(gzip.compress(TEXTS.encode()))
    for name in ("a/long-one", "beep", "digits", "short"):
        (prompts / f"{name}.g722").touch()
    (book / "transcription").write_text("<s> he was </s> (austen-0880)\n")
    audio.write(book / "austen-0880.wav", np.zeros(160, np.float32), 16000)
    monkeypatch.setattr(clips, "_decoded", lambda path: np.zeros(320, np.float32))
    return tmp_path


def test_long_prompts_without_digits_are_evaluated_and_short_ones_calibrate(folder: Path) -> None:
    heard = clips.evaluated(folder, folder / "cache")
    assert [clip.name for clip in heard] == ["book/0880", "asterisk/a/long-one"]
    assert heard[0].text == "he was"
    assert audio.duration(heard[1].path) == 0.02
    assert [clip.name for clip in clips.calibration(folder, folder / "cache")] == ["asterisk/short"]


def test_a_missing_package_is_named(tmp_path: Path) -> None:
    with pytest.raises(Error, match="asterisk-core-sounds-en"):
        clips.evaluated(tmp_path, tmp_path)


class Words:
    """A vocabulary of five words."""

    end = 5

    def data(self, tokens: list[int]) -> bytes:
        return b"w" * (tokens[0] + 1)


def test_whisper_cpp_gets_every_tensor_once_by_the_names_it_knows(tmp_path: Path) -> None:
    whisper = Whisper(Sizes(width=64, layers=1, vocabulary=8)).requires_grad_(False)
    vocabulary: Any = Words()
    ggml_file.write(whisper, vocabulary, "f16", Path(), tmp_path / "model.bin")
    data = (tmp_path / "model.bin").read_bytes()
    magic, *numbers = struct.unpack_from("<I11i", data)
    assert magic.to_bytes(4, "big") == b"ggml"
    assert numbers == [8, 1500, 64, 1, 1, 448, 64, 1, 1, 80, 1]
    at = 48 + 8 + 4 * 80 * 201 + 4 + sum(4 + n for n in range(1, 6))
    tensors = {}
    while at < len(data):
        rank, length, kind = struct.unpack_from("<3i", data, at)
        shape = struct.unpack_from(f"<{rank}i", data, at + 12)
        at += 12 + 4 * rank
        name, at = data[at : at + length].decode(), at + length
        count = int(np.prod(shape))
        tensors[name] = np.frombuffer(data, (np.float32, np.float16)[kind], count, at)
        at += tensors[name].nbytes
    assert len(tensors) == len(whisper.state_dict()) - 1
    query = tensors["decoder.blocks.0.cross_attn.query.weight"]
    wanted = whisper.state_dict()["decoder.layers.0.encoder_attn.q_proj.weight"]
    assert query.tobytes() == wanted.to(torch.float16).numpy().tobytes()
    for name in ("encoder.conv1.bias", "encoder.ln_post.weight", "decoder.positional_embedding"):
        assert tensors[name].dtype == np.float32


def test_a_difference_of_rates_is_of_the_same_clips() -> None:
    one, other = (
        Errors.count(["a b", "c d"], [["a b", "c"]]),
        Errors.count(["a b", "c d"], [["a b", "x"]]),
    )
    difference, (low, high) = other.minus(one)
    assert (difference, low) == (25, 0)
    assert high > 25
    assert one.minus(one) == (0, (0, 0))


def test_the_page_has_what_ran_and_says_what_did_not() -> None:
    pytest.importorskip("transformers")
    row = {
        "texts": ["He was!", "Mr. Smith"], "seconds": [1.0, 2.0], "audio_seconds": 6.0,
        "peak_bytes": 90_000_000, "peak_bytes_at_work": 80_000_000, "model_bytes": 0,
    }  # fmt: skip
    rows = {
        report.REFERENCE: row,
        "ours": row | {"model_bytes": 20_000_000},
        "x": {"absent": "no x"},
    }
    results = {"systems": rows, "threads": 1, "machine": {"cpu": "a CPU"}}
    page = report.page(results, ["he was", "mister smith"])
    assert (
        "| ours | 0.00 (0.00-0.00) | +0.00 (+0.00 to +0.00) | 0.500 | 90 | 80 | 20.0 | - |" in page
    )
    assert "- x did not run: no x" in page
