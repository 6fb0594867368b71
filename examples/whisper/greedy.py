"""Greedy decoding: the likeliest token, one after the other."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from examples.whisper.tokens import CONTEXT, Vocabulary

Step = Callable[[int, int], NDArray[np.float32]]


def greedy(vocabulary: Vocabulary, step: Step) -> list[int]:
    """The tokens of a text, without prompt and end.

    As transformers' ``generate`` writes with one beam and no time stamps.

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
        logits = step(token, position)
    return text
