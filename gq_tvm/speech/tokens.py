"""Characters as tokens."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from gq_tvm.errors import Error

BLANK = 0
CHARACTERS: tuple[str, ...] = ("<blank>", " ", *"abcdefghijklmnopqrstuvwxyz", "'")


def encode(text: str, tokens: Sequence[str] = CHARACTERS) -> list[int]:
    """Token numbers of a text; raises Error at a character that has none."""
    numbers = {token: number for number, token in enumerate(tokens) if number != BLANK}
    try:
        return [numbers[character] for character in normalise(text)]
    except KeyError as error:
        raise Error(
            f"the text {text!r} holds {error.args[0]!r}, which is no token of this model; "
            "spell it with letters, spaces and apostrophes"
        ) from None


def decode(numbers: Iterable[int], tokens: Sequence[str] = CHARACTERS) -> str:
    """The text of token numbers; blanks are dropped, spaces at the ends too."""
    return spell(numbers, tokens).strip()


def spell(numbers: Iterable[int], tokens: Sequence[str] = CHARACTERS) -> str:
    """The text of token numbers with the spaces at its ends; raises Error for one of no token."""
    try:
        return "".join(tokens[number] for number in numbers if number != BLANK)
    except IndexError:
        raise Error(
            f"the model says a token that is none of its {len(tokens)}; export it again"
        ) from None


def normalise(text: str) -> str:
    """Lower case, single spaces, typographic apostrophes made plain."""
    return " ".join(text.lower().replace("’", "'").split())
