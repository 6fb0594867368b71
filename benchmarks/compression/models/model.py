"""What every network of the table is: a loader, inputs to calibrate with, and what it must do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Folders:
    """Where things are.

    Attributes:
        recordings: spoken digits, DIGIT_SPEAKER_TAKE.wav; None if not given.
        work: for results and what is made once.
    """

    recordings: Path | None
    work: Path


class Model(ABC):
    """A trained network. No input is both of `calibrate` and of `outputs`."""

    name: str
    title: str
    #: What each of `measures` is, by its key; the first is the headline.
    measured: ClassVar[Mapping[str, str]]
    #: Patterns of weights that every method leaves in float, as ``overrides`` of ``compress``.
    left: ClassVar[Mapping[str, None]] = {}

    def __init__(self, folders: Folders) -> None:
        self.folders = folders

    @property
    @abstractmethod
    def given(self) -> bool:
        """Whether its recordings are, or its package where it needs none."""

    @abstractmethod
    def load(self) -> nn.Module:
        """The float network, in eval mode."""

    def examples(self) -> tuple[Tensor, ...]:
        """Inputs to export a network with that is compiled."""
        raise NotImplementedError

    @abstractmethod
    def calibrate(self, net: nn.Module) -> None:
        """Run a network on the calibration inputs."""

    @abstractmethod
    def outputs(self, net: nn.Module) -> Floats:
        """What a network says of the evaluation inputs: what the loss is measured on."""

    @abstractmethod
    def measures(self, net: nn.Module, outputs: Floats, floats: Floats) -> dict[str, Any]:
        """What the network must still do, from its outputs and those of the float network."""


def noise_share(outputs: Floats, floats: Floats) -> float:
    """Power of the difference over that of the float network's outputs; 1 / SQNR."""
    difference = (outputs - floats).astype(np.float64)
    return float((difference**2).sum() / (floats.astype(np.float64) ** 2).sum())


def nearest(embeddings: Floats) -> NDArray[np.intp]:
    """Which other embedding lies nearest to each, of f32 [N, K] of length 1."""
    cosines = embeddings @ embeddings.T
    np.fill_diagonal(cosines, -1)
    return cosines.argmax(1)
