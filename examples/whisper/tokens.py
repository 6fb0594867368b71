"""Whisper's tokens: their texts, and which of them may be written.

A vocabulary lists the tokens, one a line, each byte of theirs as a character that can be printed:
itself, or the first characters behind Latin-1 for those bytes that cannot be.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from gq_tvm.errors import Error

CONTEXT = 448  # tokens of a text at most, the prompt counted
_VOCABULARY, _RULES = "vocabulary.txt", "config.json"
_END, _START, _NO_TIMES = "<|endoftext|>", "<|startoftranscript|>", "<|notimestamps|>"


class Vocabulary:
    """The tokens of a Whisper for English, as CTranslate2's folders describe them.

    Attributes:
        prompt: The tokens before every text.
        end: The token behind every text.
        suppressed: Tokens that are never written.
        suppressed_first: Tokens that no text begins with.
    """

    def __init__(self, folder: Path) -> None:
        """Read ``vocabulary.txt`` and ``config.json``.

        Raises:
            Error: they are missing or damaged.
        """
        try:
            self._tokens = (folder / _VOCABULARY).read_text(encoding="utf-8").split("\n")
            self.end = self._tokens.index(_END)
            self.prompt = [self._tokens.index(_START), self._tokens.index(_NO_TIMES)]
            rules = json.loads((folder / _RULES).read_text(encoding="utf-8"))
            self.suppressed: list[int] = list(rules["suppress_ids"])
            self.suppressed_first: list[int] = list(rules["suppress_ids_begin"])
        except (OSError, ValueError, KeyError, TypeError) as failure:
            raise Error(f"{folder} has no vocabulary of Whisper's ({failure!r})") from None

    def text(self, tokens: list[int]) -> str:
        """What tokens say; those behind the last word of the language are left out."""
        said = self.data([token for token in tokens if token < self.end])
        return said.decode("utf-8", errors="replace").strip()

    def data(self, tokens: list[int]) -> bytes:
        """The bytes of tokens, all of them words of the language."""
        return bytes(_BYTES[one] for token in tokens for one in self._tokens[token])


def copy(source: Path, target: Path) -> None:
    """Put what ``Vocabulary`` reads into another folder."""
    for name in (_VOCABULARY, _RULES):
        shutil.copyfile(source / name, target / name)


def _bytes() -> dict[str, int]:
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {
        chr(0x100 + number): byte for number, byte in enumerate(others)
    }


_BYTES = _bytes()
