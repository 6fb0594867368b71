"""Greedy decoding: the likeliest token, one after the other."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from examples.whisper.tokens import CONTEXT, Vocabulary

# A text that repeats up to so many tokens so many times over has lost what is heard: it loops
# (Radford et al. 2022, section 4.5, who then try again at another temperature). [C]
LONGEST_CYCLE, MOST_TIMES = 8, 8

Step = Callable[[int, int], NDArray[np.float32]]


def greedy(vocabulary: Vocabulary, step: Step) -> list[int]:
    """The tokens of a text, without prompt and end.

    As transformers' ``generate`` writes with one beam and no time stamps; but a text that goes
    round in a loop ends where the loop has been written once.

    Args:
        vocabulary: Says what may be written.
        step: Takes a token and its position, gives the logits f32 [V] of the next, which
            are changed.
    """
    for position, token in enumerate(vocabulary.prompt):
        logits = step(token, position)
    text: list[int] = []
    logits[vocabulary.suppressed_first] = -np.inf
    for position in range(len(vocabulary.prompt), CONTEXT):
        logits[vocabulary.suppressed] = -np.inf
        token = int(logits.argmax())
        if token == vocabulary.end:
            break
        text.append(token)
        if (cycle := _cycle(text)) is not None:
            return text[: len(text) - (MOST_TIMES - 1) * cycle]
        logits = step(token, position)
    return text


def _cycle(text: list[int]) -> int | None:
    """How many tokens a text repeats at its end, None if it does not."""
    for length in range(1, LONGEST_CYCLE + 1):
        end = text[-length * MOST_TIMES :]
        if len(end) == length * MOST_TIMES and end == end[:length] * MOST_TIMES:
            return length
    return None
