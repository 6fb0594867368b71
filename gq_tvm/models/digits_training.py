"""Training a spoken-digit recogniser from recordings to the exported file.

Three stages, each of which a second start can pick up: float weights, GQ from the float
checkpoint, and the final evaluation with export. The development speakers serve every choice
on the way; the test speakers are heard once, at the end.
"""

from __future__ import annotations

import copy
import json
import os
import platform
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from gq_tvm import __version__, quantize
from gq_tvm.errors import Error
from gq_tvm.models import checkpoint, export, recipe
from gq_tvm.models.batches import Batches
from gq_tvm.models.evaluation import Spoken, evaluate
from gq_tvm.models.recipe import DigitRecipe
from gq_tvm.models.network import Network, NetworkSettings, build
from gq_tvm.models.torch_recogniser import recogniser
from gq_tvm.models.training import Report, Schedule, Trainer, restore_model
from gq_tvm.speech import corpora
from gq_tvm.speech.features import FeatureSettings

FP32 = Schedule(steps=3000)
FURTHER = Schedule(
    steps=600, learning_rate=1e-3, warmup=20, curriculum=(0.0, 0.0), auxiliary=(0.2, 0.2)
)
GQ = Schedule(
    steps=1200, learning_rate=8e-4, warmup=50, curriculum=(0.0, 0.0), masked=0.0, evaluate_every=250
)


@dataclass(frozen=True)
class DigitTraining:
    """Everything that decides the outcome of a training."""

    recordings: Path
    output: Path  # OUTPUT.pt2, OUTPUT.json and two checkpoints are written
    cache: Path
    seed: int = 1
    recipe: DigitRecipe = field(default_factory=DigitRecipe)
    sizes: NetworkSettings = field(default_factory=NetworkSettings)
    batch: int = 32
    fp32: Schedule = FP32
    gq: Schedule = GQ
    bits: int = 4
    overrides: Mapping[str, int] = field(default_factory=dict)  # module name pattern -> bits
    activation: str = "int8"
    initial: Path | None = None  # a checkpoint whose float weights are trained further
    start_from: Path | None = None  # a checkpoint with float weights; none are trained then
    resume: bool = False
    also: Mapping[str, Path] = field(default_factory=dict)  # name -> manifest, only evaluated

    @property
    def fp32_checkpoint(self) -> Path:
        """Where the float weights go."""
        return self.output.with_name(f"{self.output.name}-fp32.safetensors")

    @property
    def gq_checkpoint(self) -> Path:
        """Where the weights under quantisation go."""
        return self.output.with_name(f"{self.output.name}-gq.safetensors")


def train(settings: DigitTraining, command: str, report: Report = print) -> dict[str, Any]:
    """Train, evaluate and write OUTPUT.pt2 and OUTPUT.json; returns the report.

    Raises Error when recordings, speakers, checkpoints or synthesisers are missing.
    """
    begun = time.monotonic()
    corpora.existing(settings.recordings)
    speakers = settings.recipe.development, settings.recipe.test
    final_sets = _final_sets(settings, *speakers)
    choosing = recipe.evaluation_sets(settings.recordings, speakers[0], settings.recipe, thin=5)

    batches, sources = _batches(settings, report)
    model, fp32_steps = _float_model(settings, batches, choosing, report)
    converted = _quantised_model(settings, model, batches, choosing, report)
    rates = {}
    for kind, trained in (("fp32", model), ("gq", converted)):
        rates[kind] = evaluate(recogniser(trained, batches.settings), final_sets)
        for name, rate in rates[kind].items():
            report(f"{kind}  {name}  WER {rate:.2f}%")
    layers = _layers(converted)
    result = {
        "command": command,
        "seed": settings.seed,
        "minutes": round((time.monotonic() - begun) / 60, 1),
        "steps": {"fp32": fp32_steps, "gq": settings.gq.steps},
        "speakers": {
            "train": list(settings.recipe.train),
            "development": list(speakers[0]),
            "test": list(speakers[1]),
        },
        "training_data": sources,
        "word_error_rate_percent": rates,
        "joined": "joined strings are isolated recordings put in a row, not continuous speech",
        "activation": settings.activation,
        "layers": layers,
        "packed_bytes": sum(layer["packed_bytes"] for layer in layers),
        "float_bytes": sum(layer["float_bytes"] for layer in layers),
        "versions": _versions(),
    }
    summary = {key: result[key] for key in ("command", "seed", "word_error_rate_percent")}
    export.save(converted, batches.settings, Path(f"{settings.output}.pt2"), summary)
    result["file_bytes"] = os.path.getsize(f"{settings.output}.pt2")
    _write_json(Path(f"{settings.output}.json"), result)
    report(f"wrote {settings.output}.pt2 and {settings.output}.json")
    return result


def _batches(settings: DigitTraining, report: Report) -> tuple[Batches, dict[str, Any]]:
    report("reading recordings and synthetic speech")
    features = FeatureSettings()
    sources = recipe.training_sources(
        settings.recordings, settings.cache, settings.recipe, features.sample_rate, settings.seed
    )
    batches = Batches(sources, features, settings.seed, settings.batch)
    mean, deviation = batches.log_mel_statistics(300)
    batches.settings = replace(features, mean=mean, deviation=deviation)
    names = ("recorded words", "synthetic words", "synthetic phrases")
    data = {
        name: {"share": source.share, "recordings": sum(map(len, source.voices))}
        for name, source in zip(names, sources, strict=False)
    }
    return batches, data


def _float_model(
    settings: DigitTraining,
    batches: Batches,
    choosing: Mapping[str, Sequence[Spoken]],
    report: Report,
) -> tuple[Network, int]:
    """The trained float model and its steps; sets the batches' features to the model's."""
    if settings.start_from:
        model, steps = _float_checkpoint(settings.start_from, batches)
        return model, steps
    torch.manual_seed(settings.seed)
    model, steps = build(settings.sizes), 0
    if settings.initial:
        model, steps = _float_checkpoint(settings.initial, batches)
    trainer = Trainer(
        model,
        batches,
        settings.fp32,
        settings.seed,
        evaluate=lambda: evaluate(recogniser(model, batches.settings), choosing),
        report=report,
        path=settings.fp32_checkpoint,
        description=_description(settings, model, batches),
    )
    _resume(settings, trainer, settings.fp32_checkpoint)
    trainer.run()
    return model, steps + settings.fp32.steps


def _float_checkpoint(path: Path, batches: Batches) -> tuple[Network, int]:
    """The model of a checkpoint and its steps; sets the batches' features to the model's."""
    tensors, description = checkpoint.load(path)
    if description.get("phase") != "fp32":
        raise Error(f"{path} holds no float weights; give an fp32 checkpoint")
    model = build(NetworkSettings.from_dict(description["model"]))
    restore_model(model, tensors)
    batches.settings = FeatureSettings.from_dict(description["features"])
    return model, description["step"]


def _quantised_model(
    settings: DigitTraining,
    model: Network,
    batches: Batches,
    choosing: Mapping[str, Sequence[Spoken]],
    report: Report,
) -> Network:
    prepared = copy.deepcopy(model)
    quantize.prepare(
        prepared,
        bits=settings.bits,
        overrides={"auxiliary": 8, **settings.overrides},
        activation=settings.activation,
    )
    annealing = quantize.Annealing(prepared, steps=settings.gq.steps)

    trainer = Trainer(
        prepared,
        batches,
        settings.gq,
        settings.seed + 1,  # other batches than those the float weights saw
        phase="gq",
        annealing=annealing,
        # In evaluation mode a prepared model computes what the converted one will.
        evaluate=lambda: evaluate(recogniser(prepared, batches.settings), choosing),
        report=report,
        path=settings.gq_checkpoint,
        description=_description(settings, model, batches),
    )
    _resume(settings, trainer, settings.gq_checkpoint)
    trainer.run()
    converted = quantize.convert(prepared)
    return converted


def _resume(settings: DigitTraining, trainer: Trainer, path: Path) -> None:
    if not (settings.resume and path.exists()):
        return
    tensors, description = checkpoint.load(path)
    expected = _description(settings, trainer.model, trainer.batches)
    changed = [key for key, value in expected.items() if description.get(key) != value]
    if description.get("phase") != trainer.phase or changed:
        raise Error(
            f"{path} was trained with other options ({', '.join(changed) or 'phase'}); "
            "repeat those, or leave --resume out to start again"
        )
    trainer.restore(tensors, description["step"])
    trainer.report(f"{trainer.phase}  resumed at step {trainer.step}")


def _description(settings: DigitTraining, model: Network, batches: Batches) -> dict[str, Any]:
    return {
        "seed": settings.seed,
        "model": settings.sizes.to_dict(),
        "features": batches.settings.to_dict(),
    }


def _final_sets(
    settings: DigitTraining, development: Sequence[str], test: Sequence[str]
) -> dict[str, Sequence[Spoken]]:
    sets: dict[str, Sequence[Spoken]] = {}
    for role, speakers in (("development", development), ("test", test)):
        found = recipe.evaluation_sets(settings.recordings, speakers, settings.recipe)
        sets |= {f"{role} {kind}": spoken for kind, spoken in found.items()}
    return sets | {name: corpora.manifest(path) for name, path in settings.also.items()}


def _layers(model: Network) -> list[dict[str, Any]]:
    """The weights that are exported; the auxiliary output serves training only."""
    return [
        {
            "name": weight.name,
            "shape": list(weight.shape),
            "bits": weight.bits,
            "activation": weight.activation,
            "packed_bytes": weight.size,
            "float_bytes": weight.float_size,
        }
        for weight in quantize.describe(model)
        if not weight.name.startswith("auxiliary.")
    ]


def _versions() -> dict[str, str]:
    versions = {name: version(name) for name in ("torch", "numpy", "kaldi-native-fbank", "jiwer")}
    try:
        asked = subprocess.run(["espeak-ng", "--version"], capture_output=True, text=True)
        versions["espeak-ng"] = asked.stdout.split(":")[1].split()[0]
    except (OSError, IndexError):
        pass
    return {"gq-tvm": __version__, "python": platform.python_version(), **versions}


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(values, indent=1) + "\n")
    os.replace(temporary, path)
