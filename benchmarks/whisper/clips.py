"""The recordings: read speech and telephone prompts, with what is said in them.

Both come out of packages that are unpacked without installing them::

    apt-get download asterisk-core-sounds-en asterisk-core-sounds-en-g722 pocketsphinx-testdata
    for deb in *.deb; do dpkg-deb -x "$deb" FOLDER; done

G.722 is decoded by PyAV (``av``), and what is heard is kept as WAV files of 16 kHz.
"""

from __future__ import annotations

import gzip
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gq_tvm.errors import Error
from gq_tvm.speech import audio

RATE = 16000
_PROMPTS = Path("usr/share/asterisk/sounds/en_US_f_Allison")
_PROMPT_TEXTS = Path("usr/share/doc/asterisk-core-sounds-en/core-sounds-en.txt.gz")
_BOOK = Path("usr/share/pocketsphinx/test/data/librivox")
_LONG = 5  # words
_KINDS = 13  # no divisor of how many are alike and stand together


@dataclass(frozen=True)
class Clip:
    """A recording.

    Attributes:
        name: Of its kind and file.
        path: A WAV file of 16 kHz.
        text: What is said.
    """

    name: str
    path: Path
    text: str


def evaluated(folder: Path, cache: Path) -> list[Clip]:
    """The book's clips, then the prompts of five words or more without digits.

    Args:
        folder: Where the packages were unpacked.
        cache: For WAV files.

    Raises:
        Error: a package is missing.
    """
    long = [(name, text) for name, text in _prompts(folder) if len(_words(text)) >= _LONG]
    return _book(folder) + [_prompt(folder, cache, *one) for one in long]


def calibration(folder: Path, cache: Path) -> list[Clip]:
    """The prompts of one to four words, of all kinds in turn; none of them is evaluated."""
    short = [(name, text) for name, text in _prompts(folder) if 1 <= len(_words(text)) < _LONG]
    turns = (short[first::_KINDS] for first in range(_KINDS))
    return [_prompt(folder, cache, *one) for turn in turns for one in turn]


def _words(text: str) -> list[str]:
    """The words that are said; brackets hold what else is heard."""
    return re.sub(r"[\[(].*?[\])]", "", text).split()


def _prompts(folder: Path) -> list[tuple[str, str]]:
    path = folder / _PROMPT_TEXTS
    if not path.exists():
        raise Error(f"{path} is missing; unpack asterisk-core-sounds-en there")
    lines = gzip.decompress(path.read_bytes()).decode("utf-8", "replace").splitlines()
    told = [line.split(":", 1) for line in lines if ":" in line and not line.startswith(";")]
    named = [(name.strip(), text.strip()) for name, text in told]
    recorded = [(n, text) for n, text in named if (folder / _PROMPTS / f"{n}.g722").exists()]
    if not recorded:
        raise Error(
            f"{folder / _PROMPTS} has no prompts; unpack asterisk-core-sounds-en-g722 there"
        )
    return [(name, text) for name, text in recorded if not re.search(r"\d", text)]


def _prompt(folder: Path, cache: Path, name: str, text: str) -> Clip:
    source = folder / _PROMPTS / f"{name}.g722"
    path = cache / f"{name.replace('/', '-')}.wav"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        audio.write(path, _decoded(source), RATE)
    return Clip(f"asterisk/{name}", path, text)


def _decoded(path: Path) -> np.ndarray:
    """Samples f32 [n] of a G.722 file, which has 16 kHz."""
    import av

    with av.open(str(path)) as file:
        frames = [frame.to_ndarray().reshape(-1) for frame in file.decode(audio=0)]
    return np.concatenate(frames).astype(np.float32) / 32768


def _book(folder: Path) -> list[Clip]:
    path = folder / _BOOK / "transcription"
    if not path.exists():
        raise Error(f"{path} is missing; unpack pocketsphinx-testdata there")
    found = re.findall(r"<s>(.*)</s> \((.*)\)", path.read_text(encoding="utf-8"))
    return [Clip(f"book/{n[-4:]}", folder / _BOOK / f"{n}.wav", t.strip()) for t, n in found]
