"""Recordings with their texts, from the layouts they are published in."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from gq_tvm import reading, records
from gq_tvm.errors import Error
from gq_tvm.speech import audio, tokens

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@dataclass(frozen=True)
class Utterance:
    """A recording on disk, what is said in it, and by whom."""

    path: Path
    text: str
    speaker: str

    def samples(self, sample_rate: int) -> np.ndarray:
        """Samples f32 [n] in [-1, 1] at ``sample_rate`` Hz; raises Error when unreadable."""
        return audio.read(self.path, sample_rate)


def spoken_digits(folder: str | Path) -> list[Utterance]:
    """The Free Spoken Digit Dataset: ``DIGIT_SPEAKER_TAKE.wav``, anywhere below ``folder``.

    Raises Error when the folder is missing or holds no such file.
    """
    folder = existing(folder)
    found = []
    for path in sorted(folder.rglob("*.wav")):
        digit, _, rest = path.stem.partition("_")
        speaker, _, take = rest.rpartition("_")
        if digit in set("0123456789") and speaker and take.isdigit():
            found.append(Utterance(path, DIGITS[int(digit)], speaker))
    if not found:
        raise Error(f"{folder} holds no recording named DIGIT_SPEAKER_TAKE.wav; check the folder")
    return found


def librispeech(folder: str | Path) -> list[Utterance]:
    """LibriSpeech: ``SPEAKER/CHAPTER/*.trans.txt`` beside the FLAC files it lists.

    Raises Error when the folder holds no transcript, one is no text, or a listed recording is
    missing.
    """
    folder = existing(folder)
    found = []
    for transcript in sorted(folder.rglob("*.trans.txt")):
        if transcript.name.startswith("._"):
            continue  # what a Mac leaves beside each file it copies
        for line in reading.lines(transcript):
            if not line.strip():
                continue
            name, text = [*line.split(maxsplit=1), ""][:2]
            path = transcript.parent / f"{name}.flac"
            if not os.path.exists(path):
                raise Error(f"{transcript} lists {name}, but {path} is missing; unpack it again")
            found.append(Utterance(path, tokens.normalise(text), name.partition("-")[0]))
    if not found:
        raise Error(f"{folder} holds no *.trans.txt; give the folder LibriSpeech was unpacked to")
    return found


def manifest(path: str | Path) -> list[Utterance]:
    """A JSON-lines file: ``{"path": PATH, "text": TEXT, "speaker": NAME}`` a line.

    Paths are relative to the file; the speaker may be left out or null. ``"audio"``, as other
    programs write, will do for ``"path"``. Raises Error naming the line that is wrong.
    """
    path = Path(path)
    found = []
    for number, line in enumerate(reading.lines(path), 1):
        if not line.strip():
            continue
        try:
            found.append(_entry(path.parent, records.loads(line)))
        except (ValueError, KeyError, TypeError):
            raise Error(
                f'{path}, line {number}, is not of the form {{"path": "a.wav", "text": "one"}}; '
                "correct it"
            ) from None
    if not found:
        raise Error(f"{path} lists no recordings; add a line for each")
    return found


def _entry(folder: Path, entry: Any) -> Utterance:
    """The utterance of a line of a manifest; raises what is no Error for what is none."""
    recording, text = entry["path" if "path" in entry else "audio"], entry["text"]
    speaker = entry.get("speaker")
    if not isinstance(text, str) or not isinstance(speaker, str | int | None):
        raise TypeError
    return Utterance(
        folder / recording, tokens.normalise(text), "" if speaker is None else str(speaker)
    )


def by_speaker(utterances: Iterable[Utterance], speakers: Iterable[str]) -> list[Utterance]:
    """The utterances of some speakers; raises Error for a speaker who has none."""
    utterances = list(utterances)
    found = []
    for speaker in speakers:
        own = [utterance for utterance in utterances if utterance.speaker == speaker]
        if not own:
            known = ", ".join(sorted({utterance.speaker for utterance in utterances}))
            raise Error(f"there is no speaker {speaker!r}; choose from {known}")
        found += own
    return found


def existing(folder: str | Path) -> Path:
    """``folder`` as a path; raises Error when there is no such folder."""
    folder = Path(folder)
    if not os.path.isdir(folder):  # of a name too long, pathlib would raise
        raise Error(f"{folder}: there is no such folder; check the path")
    return folder


@dataclass(frozen=True)
class JoinedString:
    """Isolated words of one speaker put in a row: not continuous speech, and named so."""

    words: tuple[Utterance, ...]
    gaps: tuple[float, ...]  # seconds of silence after each word

    @cached_property
    def text(self) -> str:
        """The words' texts."""
        return " ".join(word.text for word in self.words)

    def samples(self, sample_rate: int) -> np.ndarray:
        """Samples f32 [n] in [-1, 1] at ``sample_rate`` Hz."""
        pieces = []
        for word, gap in zip(self.words, self.gaps, strict=True):
            pieces += [word.samples(sample_rate), np.zeros(round(gap * sample_rate), np.float32)]
        return np.concatenate(pieces)


def joined_strings(
    utterances: Iterable[Utterance], count: int, seed: int, shortest: int = 2, longest: int = 5
) -> list[JoinedString]:
    """``count`` strings of ``shortest`` to ``longest`` words, each of one speaker."""
    voices: dict[str, list[Utterance]] = {}
    for utterance in utterances:
        voices.setdefault(utterance.speaker, []).append(utterance)
    speakers = sorted(voices)
    rng = np.random.default_rng(seed)
    strings = []
    for _ in range(count):
        own = voices[speakers[rng.integers(len(speakers))]]
        words = tuple(
            own[i] for i in rng.integers(len(own), size=rng.integers(shortest, longest + 1))
        )
        gaps = tuple(float(gap) for gap in rng.uniform(0.05, 0.35, len(words)))
        strings.append(JoinedString(words, gaps))
    return strings
