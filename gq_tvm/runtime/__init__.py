"""Artefacts on disk, loaded models, and the devices they run on."""

from __future__ import annotations

from gq_tvm.runtime.artefact import Artefact, save
from gq_tvm.runtime.model import Model, load

__all__ = ["Artefact", "Model", "load", "save"]
