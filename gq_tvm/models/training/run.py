"""One training from its configuration to the exported file.

Three stages, each of which a second start can pick up: float weights, quantised weights from the
float checkpoint, and the final evaluation with export. The development corpora serve every choice
on the way; both networks hear the test corpora once, at the end.
"""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch

from gq_tvm import quantize
from gq_tvm.errors import Error
from gq_tvm.models import export
from gq_tvm.models.configuration.config import Config
from gq_tvm.models.data import loading as data
from gq_tvm.models.data.loading import Recordings
from gq_tvm.models.networks.network import Network, build
from gq_tvm.models.torch_recogniser import recogniser
from gq_tvm.models.training import checkpoint, run_report, start
from gq_tvm.models.training.dry_run import planned, prepared
from gq_tvm.models.training.evaluation import QuickEvaluation, Rate, evaluate
from gq_tvm.models.training.interruption import stopping_on_interrupt
from gq_tvm.models.training.objective import Teacher
from gq_tvm.models.training.trainer import Report, Schedule, Trainer
from gq_tvm.speech.features import FeatureSettings


def train(
    config: Config,
    command: str,
    *,
    resume: bool = False,
    fp32_only: bool = False,
    report: Report = print,
) -> dict[str, Any]:
    """Train, evaluate and write OUTPUT.pt2 and OUTPUT.json; returns what is in the latter.

    Args:
        config: see ``config.read``.
        command: how this training was asked for, for the report.
        resume: go on from OUTPUT's checkpoints where they exist.
        fp32_only: stop when the float weights are trained and evaluated on the development
            corpora; only their checkpoint is written.
        report: told of the progress, a line at a time.

    Raises:
        Error: something is missing or odd, or would be overwritten.
        KeyboardInterrupt: after an interrupt, with the checkpoint written.
    """
    begun = time.monotonic()
    _check_output(config, resume)
    planned(config)
    run = Run(config, resume, report)
    model, steps = run.float_model()
    rates = {"fp32": run.evaluate("fp32", model, "development")}
    if fp32_only:
        return run_report.rates(rates)
    trained = run.quantised_model(model)
    converted = cast(Network, quantize.convert(trained))
    rates["quantised"] = run.evaluate("quantised", converted, "development")
    for name, network in {"fp32": model, "quantised": converted}.items():
        rates[name] |= run.evaluate(name, network, "test")
    result = {
        "command": command,
        "seed": config.seed,
        "minutes": round((time.monotonic() - begun) / 60, 1),
        "steps": {"fp32": steps, "quantised": config.quantise.schedule.steps},
        "corpora": [one.summary() for one in run.recordings],
        **run_report.rates(rates),
        **run_report.sizes(trained),
        "configuration": config.decisive("quantised"),
        "versions": run_report.versions(),
    }
    summary = {key: result[key] for key in ("command", "seed", "word_error_rate_percent")}
    export.save(converted, run.features, Path(f"{config.output}.pt2"), summary)
    result["file_bytes"] = os.path.getsize(f"{config.output}.pt2")
    run_report.write(Path(f"{config.output}.json"), result)
    report(f"wrote {config.output}.pt2 and {config.output}.json")
    return result


class Run:
    """The data of a training, and its stages."""

    def __init__(self, config: Config, resume: bool, report: Report) -> None:
        self.config, self.report, self._resume = config, report, resume
        spoken = [one.name for one in config.corpora if one.kind == "synthetic"]
        more = (
            f"; what is not yet in the cache of {' and '.join(spoken)} is spoken" if spoken else ""
        )
        report(f"looking at the recordings{more}")
        self.recordings: Sequence[Recordings] = data.recordings(config)
        self._start = start.configured(config)
        known = self._start[1] if self._start else None
        self._batches = data.supply(config, self.recordings, config.seed, known)
        if about := self._batches.about():
            report(about)
        self.features: FeatureSettings = self._batches.settings
        choosing = data.evaluation_sets(config, self.recordings, "development")
        most = config.evaluation.while_training
        self._quick = QuickEvaluation(choosing, self.features, most) if choosing else None

    def float_model(self) -> tuple[Network, int]:
        """The trained float network and the steps it has had in all."""
        config, steps = self.config, 0
        if self._start:
            model, _, steps = self._start
            if config.fp32.schedule is None:
                return model, steps
        else:
            torch.manual_seed(config.seed)
            model = build(config.network)
        schedule = config.fp32.schedule
        assert schedule is not None
        self._train(model, schedule, "fp32", config.seed, config.fp32_checkpoint)
        return model, steps + schedule.steps

    def quantised_model(self, model: Network) -> Network:
        """A copy of the float network, quantised and trained so."""
        config = self.config
        trained = prepared(config, copy.deepcopy(model))
        schedule = config.quantise.schedule
        annealing = quantize.Annealing(trained, schedule.steps, **vars(config.quantise.hardness))
        weight = config.quantise.distillation
        self._train(
            trained,
            schedule,
            "quantised",
            config.seed + 1,  # other batches than those the float weights saw
            config.quantised_checkpoint,
            annealing=annealing,
            teacher=Teacher(model, weight) if weight else None,
        )
        return trained

    def evaluate(self, name: str, model: Network, role: str) -> dict[str, Rate]:
        """Word error rates of all sets of a role."""
        sets = data.evaluation_sets(self.config, self.recordings, role)
        rates = evaluate(recogniser(model, self.features), sets)
        for of, rate in rates.items():
            low, high = rate.interval
            self.report(f"{name}  {of}  WER {rate.percent:.2f}% ({low:.2f} to {high:.2f})")
        return rates

    def _train(
        self, model: Network, schedule: Schedule, phase: str, seed: int, path: Path, **more: Any
    ) -> None:
        quick = self._quick
        description = {
            "model": self.config.network.to_dict(),
            "features": self.features.to_dict(),
            "configuration": self.config.decisive(phase),
        }
        trainer = Trainer(
            model,
            self._batches.with_seed(seed, fresh=phase == "fp32" and not self._start),
            schedule,
            seed,
            phase=phase,
            # In evaluation mode a prepared model computes what the converted one will.
            evaluate=(lambda: quick(model)) if quick else None,
            report=self.report,
            path=path,
            description=description,
            **more,
        )
        if self._resume and path.exists():
            _restore(trainer, path, description)
        with stopping_on_interrupt(trainer):
            trainer.run()


def _restore(trainer: Trainer, path: Path, expected: dict[str, Any]) -> None:
    tensors, description = checkpoint.load(path)
    before, now = description.get("configuration", {}), expected["configuration"]
    changed = [key for key in now if before.get(key) != now[key]]
    # Recordings that were exchanged under their names show in the features' means.
    same = ("model", "features")
    changed = changed or [key for key in same if description.get(key) != expected[key]]
    if description.get("phase") != trainer.phase or changed:
        raise Error(
            f"{path} was trained with another configuration ({', '.join(changed) or 'phase'}); "
            "repeat that one, or choose another output (fp32.start_from spares the float training)"
        )
    trainer.restore(tensors, description["step"])
    trainer.report(f"{trainer.phase}  resumed at step {trainer.step}")


def _check_output(config: Config, resume: bool) -> None:
    """Refuse to write over what is there, or where nothing can be written."""
    written = [Path(f"{config.output}{end}") for end in (".pt2", ".json")]
    for path in (config.fp32_checkpoint, config.quantised_checkpoint, *written):
        if os.path.exists(path) and not resume:
            raise Error(f"{path} exists; go on with --resume, or choose another output")
    folder = config.output.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Error(f"{folder} cannot be made ({error.strerror}); choose another output") from None
    if not os.access(folder, os.W_OK):
        raise Error(f"{folder} cannot be written to; choose another output")
