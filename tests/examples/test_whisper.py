"""examples/whisper: other people's file, network, features and texts, and our own artefact."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from examples.whisper import checkpoint, ctranslate2_file
from examples.whisper.compiling import calibration, compress, float_step, joined, write
from examples.whisper.greedy import greedy
from examples.whisper.log_mel import FRAMES, RATE, SAMPLES, log_mel
from examples.whisper.network import Listen, Sizes, Step, Whisper
from examples.whisper.recogniser import Recogniser
from examples.whisper.tokens import CONTEXT, Vocabulary
from gq_tvm.errors import Error

SMALL = Sizes(width=64, layers=1, vocabulary=40)


@pytest.fixture(scope="module")
def whisper() -> Whisper:
    torch.manual_seed(0)
    return Whisper(SMALL).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A vocabulary of SMALL's size."""
    folder = tmp_path_factory.mktemp("vocabulary")
    framing = ["<|endoftext|>", "<|startoftranscript|>", "<|notimestamps|>"]
    words = [chr(0x61 + i) for i in range(26)] + ["Ġ", "Ã", "©"]
    lines = words + [f"<{i}>" for i in range(SMALL.vocabulary - 32)] + framing
    (folder / "vocabulary.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    rules = {"suppress_ids": [0, 38, 39], "suppress_ids_begin": [26, 37]}
    (folder / "config.json").write_text(json.dumps(rules))
    return folder


@pytest.fixture(scope="module")
def model() -> Path:
    try:
        return checkpoint.folder()
    except Error as absent:
        pytest.skip(str(absent))


def test_recordings_are_joined_to_half_minutes_and_none_is_cut():
    recordings = [
        np.full(seconds * RATE, n + 1, np.float32) for n, seconds in enumerate((9, 21, 5))
    ]
    parts = joined(recordings)
    assert [sorted(set(part.tolist())) for part in parts] == [[0, 1], [0, 2, 3]]
    assert all(len(part) <= SAMPLES for part in parts)
    assert sum((part == 2).sum() for part in parts) == 21 * RATE


def noise(seconds: float = 3.0) -> np.ndarray:
    rng = np.random.default_rng(0)
    return (0.1 * rng.standard_normal(int(16000 * seconds))).astype(np.float32)


def written(path: Path, tensors: dict[str, np.ndarray], aliases: dict[str, str]) -> Path:
    def name(text: str) -> bytes:
        return struct.pack("<H", len(text) + 1) + text.encode() + b"\0"

    kinds = ["float32", "int8", "int16", "int32", "float16"]
    data = struct.pack("<I", 6) + name("Spec") + struct.pack("<II", 3, len(tensors))
    for key, array in tensors.items():
        data += name(key) + struct.pack(f"<B{array.ndim}I", array.ndim, *array.shape)
        data += struct.pack("<BI", kinds.index(str(array.dtype)), array.nbytes) + array.tobytes()
    data += struct.pack("<I", len(aliases))
    path.write_bytes(data + b"".join(name(a) + name(b) for a, b in aliases.items()))
    return path


def test_reads_tensors_and_aliases(tmp_path: Path) -> None:
    weight = np.arange(6, dtype=np.float16).reshape(2, 3)
    path = written(
        tmp_path / "model.bin", {"a/weight": weight, "n": np.array(6, np.int16)}, {"b": "a/weight"}
    )
    tensors = ctranslate2_file.read(path)
    assert list(tensors) == ["a/weight", "n", "b"]
    np.testing.assert_array_equal(tensors["b"], weight)
    assert tensors["n"].shape == ()
    assert tensors["n"] == 6


@pytest.mark.parametrize("kept", [0, 3, 20, -1])
def test_a_cut_file_is_refused(tmp_path: Path, kept: int) -> None:
    path = written(tmp_path / "model.bin", {"a": np.ones(3, np.float32)}, {})
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(Error, match=r"cut|cannot be read"):
        ctranslate2_file.read(path)


def test_steps_say_what_the_whole_text_says(whisper: Whisper) -> None:
    features, text = torch.randn(1, 80, FRAMES), torch.randint(0, SMALL.vocabulary, (1, 5))
    whole, heard = whisper(features, text), Listen(whisper)(features)
    cache = [torch.full((1, 8, 1, 64), 3.0) for _ in heard]  # what is not written is not read
    for i in range(5):
        logits, new = Step(whisper)(text[:, i : i + 1], torch.tensor([i]), heard, cache)
        for kept, one in zip(cache, new, strict=True):
            kept[:, i] = one[:, 0]
        torch.testing.assert_close(logits, whole[:, i], atol=2e-5, rtol=1e-4)


def test_writes_what_may_be_written(folder: Path) -> None:
    vocabulary = Vocabulary(folder)
    assert (vocabulary.prompt, vocabulary.end) == ([38, 39], 37)
    seen = []

    def step(token: int, position: int) -> Any:
        seen.append((token, position))
        logits = np.zeros(SMALL.vocabulary, np.float32)
        logits[[0, 26, 37, 7]] = 9, 8, 7, 6  # the first never; the next two not at the beginning
        if len(seen) > 3:
            logits[26] = 0
        return logits

    assert greedy(vocabulary, step) == [7, 26]
    assert seen == [(38, 0), (39, 1), (7, 2), (26, 3)]
    assert vocabulary.text([7, 26, 27, 28, 37, 39]) == "h é"


@pytest.mark.parametrize("cycle", [[7], [7, 26, 7, 8]])
def test_a_loop_is_written_once(folder: Path, cycle: list[int]) -> None:
    vocabulary = Vocabulary(folder)
    text = [8, 9, *[token for _ in range(20) for token in cycle]]

    def step(token: int, position: int) -> Any:
        logits = np.zeros(SMALL.vocabulary, np.float32)
        logits[text[position - 1] if position else 0] = 1
        return logits

    assert greedy(vocabulary, step) == [8, 9, *cycle]


def test_a_missing_vocabulary_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Error, match="vocabulary"):
        Vocabulary(tmp_path)


@pytest.mark.export
def test_the_artefact_writes_what_the_network_writes(
    whisper: Whisper, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("examples.whisper.greedy.MOST_TIMES", CONTEXT)  # it says one word for ever
    vocabulary, features = Vocabulary(folder), log_mel(noise())
    inputs = calibration(whisper, vocabulary, [log_mel(noise(1))])
    compressed = compress(whisper, 8, "fp32", inputs=inputs)
    write(compressed, folder, tmp_path / "whisper")
    recogniser = Recogniser(tmp_path / "whisper")
    text = greedy(vocabulary, float_step(compressed, torch.from_numpy(features)))
    assert recogniser.tokens(features) == text
    assert len(text) > 64  # the cache had to grow


def test_features_are_those_of_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    wanted = transformers.WhisperFeatureExtractor()(noise(), sampling_rate=16000)
    np.testing.assert_allclose(log_mel(noise()), wanted["input_features"], atol=2e-5)


@pytest.mark.slow
def test_tiny_en_says_what_transformers_says(model: Path) -> None:
    transformers = pytest.importorskip("transformers")
    whisper = checkpoint.load(model)
    theirs = transformers.WhisperForConditionalGeneration(
        transformers.WhisperConfig(
            vocab_size=51864, d_model=384, encoder_layers=4, decoder_layers=4,
            encoder_attention_heads=6, decoder_attention_heads=6, encoder_ffn_dim=1536,
            decoder_ffn_dim=1536, pad_token_id=50256, bos_token_id=50256, eos_token_id=50256,
            decoder_start_token_id=50257,
        )
    ).eval()  # fmt: skip
    own = {name if "proj_out" in name else f"model.{name}": one
           for name, one in whisper.state_dict().items()}  # fmt: skip
    assert not any(theirs.load_state_dict(own, strict=False))
    features, vocabulary = torch.from_numpy(log_mel(noise())), Vocabulary(model)
    text = torch.randint(0, 50256, (1, 6))
    with torch.no_grad():
        logits = theirs(features, decoder_input_ids=text).logits
    torch.testing.assert_close(whisper(features, text), logits)
    theirs.generation_config.forced_decoder_ids = None
    generated = theirs.generate(
        features,
        decoder_input_ids=torch.tensor([vocabulary.prompt]),
        suppress_tokens=vocabulary.suppressed,
        begin_suppress_tokens=vocabulary.suppressed_first,
        max_new_tokens=40,
        do_sample=False,
    )
    wanted = [token for token in generated[0].tolist() if token < vocabulary.end]
    assert greedy(vocabulary, float_step(whisper, features))[:40] == wanted


def test_texts_are_those_of_tokenizers(model: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    theirs = tokenizers.Tokenizer.from_file(str(model / "tokenizer.json"))
    tokens = np.random.default_rng(0).integers(0, 50256, 2000).tolist()
    assert Vocabulary(model).text(tokens) == theirs.decode(tokens).strip()
