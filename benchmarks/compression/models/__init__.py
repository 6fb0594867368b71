"""The networks of the table, by name."""

from __future__ import annotations

from benchmarks.compression.models.imgfocus import ImgFocus
from benchmarks.compression.models.minilm import MiniLM
from benchmarks.compression.models.model import Folders, Model
from benchmarks.compression.models.resemblyzer import Resemblyzer
from benchmarks.compression.models.silero import Silero

MODELS: dict[str, type[Model]] = {
    model.name: model for model in (Silero, Resemblyzer, MiniLM, ImgFocus)
}

__all__ = ["MODELS", "Folders", "Model"]
