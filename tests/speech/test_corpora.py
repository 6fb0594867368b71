from __future__ import annotations

import json

import numpy as np
import pytest
import soundfile

from gq_tvm.errors import Error
from gq_tvm.speech import corpora, tokens, word_error_rate


@pytest.fixture
def digits(tmp_path):
    for name in ("0_ann_0", "7_ann_12", "3_bob_1", "no_digit_here", "3_bob"):
        soundfile.write(tmp_path / f"{name}.wav", np.full(80, 0.1), 8000)
    return tmp_path


def test_spoken_digits(digits):
    found = corpora.spoken_digits(digits)
    assert [(u.text, u.speaker) for u in found] == [
        ("zero", "ann"), ("three", "bob"), ("seven", "ann"),
    ]  # fmt: skip
    assert found[0].samples(8000).shape == (80,)


def test_speakers_are_taken_in_order(digits):
    chosen = corpora.by_speaker(corpora.spoken_digits(digits), ["bob", "ann"])
    assert [u.speaker for u in chosen] == ["bob", "ann", "ann"]
    with pytest.raises(Error, match=r"no speaker 'eve'; choose from ann, bob"):
        corpora.by_speaker(chosen, ["eve"])


def test_folders_without_recordings(tmp_path):
    with pytest.raises(Error, match="no such folder"):
        corpora.spoken_digits(tmp_path / "none")
    with pytest.raises(Error, match="DIGIT_SPEAKER_TAKE"):
        corpora.spoken_digits(tmp_path)
    with pytest.raises(Error, match=r"trans\.txt"):
        corpora.librispeech(tmp_path)


def test_joined_strings_keep_to_one_speaker_and_repeat_with_the_seed(digits):
    words = corpora.spoken_digits(digits)
    strings = corpora.joined_strings(words, 20, seed=3)
    assert strings == corpora.joined_strings(words, 20, seed=3)
    assert strings != corpora.joined_strings(words, 20, seed=4)
    for string in strings:
        assert len({word.speaker for word in string.words}) == 1
        assert 2 <= len(string.words) <= 5
    first = strings[0]
    assert first.text == " ".join(word.text for word in first.words)
    silence = sum(round(gap * 8000) for gap in first.gaps)
    assert len(first.samples(8000)) == 80 * len(first.words) + silence


def test_librispeech(tmp_path):
    chapter = tmp_path / "84" / "121123"
    chapter.mkdir(parents=True)
    soundfile.write(chapter / "84-121123-0000.flac", np.zeros(160), 16000)
    (chapter / "._84-121123.trans.txt").write_bytes(b"\0\x05\x16\x07Mac OS X \xb0")  # a Mac's
    for between in (" ", "\t"):
        text = f"\ufeff84-121123-0000{between}GO DO YOU HEAR\r\n\n"
        (chapter / "84-121123.trans.txt").write_text(text)
        (found,) = corpora.librispeech(tmp_path)
        assert (found.text, found.speaker) == ("go do you hear", "84")
    assert found.samples(8000).shape == (80,)
    (chapter / "84-121123.trans.txt").write_text("84-121123-0001 LOST\n")
    with pytest.raises(Error, match="84-121123-0001"):
        corpora.librispeech(tmp_path)


def test_manifest(tmp_path):
    path = tmp_path / "list.jsonl"
    entry = {"path": "b/a.wav", "text": " One  TWO "}
    lines = [json.dumps(entry), "", json.dumps(entry | {"speaker": None})]
    path.write_text("\ufeff" + "\r\n".join(lines))
    for found in corpora.manifest(path):
        assert (found.path, found.text, found.speaker) == (tmp_path / "b/a.wav", "one two", "")
    path.write_text('{"audio": "a.wav", "text": "one"}')
    assert corpora.manifest(path)[0].path == tmp_path / "a.wav"


@pytest.mark.parametrize("letter", "\u0085\u2028\u2029\x0c\x1c")
def test_only_line_feeds_end_the_lines_of_a_manifest(tmp_path, letter):
    path = tmp_path / "list.jsonl"
    entry = {"path": f"{letter}.wav", "text": f"one{letter}two", "speaker": f"a{letter}b"}
    path.write_text(2 * (json.dumps(entry, ensure_ascii=False) + "\n"), encoding="utf-8")
    for found in corpora.manifest(path):
        assert (found.path.stem, found.text, found.speaker) == (letter, "one two", f"a{letter}b")


@pytest.mark.parametrize(
    "line",
    [
        "nonsense", "[1]", "1", '{"path": "a.wav"}', '{"path": 3, "text": "a"}',
        '{"path": "a.wav", "text": 1}', '{"path": "a.wav", "text": "a", "speaker": []}',
        pytest.param("[" * 100_000, id="deep"),
    ],
)  # fmt: skip
def test_manifest_names_the_wrong_line(tmp_path, line):
    path = tmp_path / "list.jsonl"
    path.write_text('{"path": "a.wav", "text": "one"}\n' + line)
    with pytest.raises(
        Error, match=r'line 2, is not of the form \{"path": "a.wav", "text": "one"\}'
    ):
        corpora.manifest(path)


def test_texts_that_are_not_in_utf_8_are_named_with_their_line(tmp_path):
    text = '{"audio": "a.wav", "text": "one"}\n{"audio": "b.wav", "text": "caf\u00e9"}\n'
    (tmp_path / "list.jsonl").write_bytes(text.encode("latin-1"))
    (tmp_path / "7-1.trans.txt").write_bytes(b"\n\n7-1-0 ONE \xff")
    with pytest.raises(Error, match=r"list\.jsonl, line 2, is not in UTF-8; save"):
        corpora.manifest(tmp_path / "list.jsonl")
    with pytest.raises(Error, match=r"7-1\.trans\.txt, line 3, is not in UTF-8; save"):
        corpora.librispeech(tmp_path)
    with pytest.raises(Error, match=r"is a folder; name a text inside it"):
        corpora.manifest(tmp_path)


def test_missing_and_empty_manifest(tmp_path):
    with pytest.raises(Error, match="no such file"):
        corpora.manifest(tmp_path / "none")
    (tmp_path / "empty").touch()
    with pytest.raises(Error, match="lists no recordings"):
        corpora.manifest(tmp_path / "empty")


def test_tokens_round_trip():
    numbers = tokens.encode("  Don’t   stop ")
    assert tokens.decode(numbers) == "don't stop"
    assert tokens.decode([0, *numbers, 0]) == "don't stop"
    with pytest.raises(Error, match="'4'"):
        tokens.encode("route 4")


def test_word_error_rate():
    assert word_error_rate(["one two three", "four"], ["one too three", "four four"]) == 50.0
    assert word_error_rate(["one"], [""]) == 100.0
    with pytest.raises(Error):
        word_error_rate([], [])
