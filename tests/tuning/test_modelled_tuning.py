from __future__ import annotations

import os
import re

import pytest
import torch
from helpers.codebook_models import linear_program

from gq_tvm import compile as compile_command
from gq_tvm import inspect as inspect_command
from gq_tvm import targets, tune
from gq_tvm.modelled import tools
from gq_tvm.schedules import Schedule
from gq_tvm.schedules.choosing.database import read
from gq_tvm.schedules.cpu.engines.lookup_f32 import LookupFloatEngine


@pytest.mark.emulated
def test_from_modelled_tuning_to_the_artefact(tmp_path, monkeypatch, capsys):
    able, reason = tools.available()
    if not able and os.environ.get("CI"):
        pytest.fail(reason)
    if not able:
        pytest.skip(reason)
    space = [Schedule(), Schedule(vectors=2), Schedule(vectors=8)]
    monkeypatch.setattr(LookupFloatEngine, "space", classmethod(lambda *_: list(space)))
    model, database = tmp_path / "model.pt2", tmp_path / "mine.json"
    torch.export.save(linear_program(), model)
    common = ["--database", str(database), "--target", "cortex-a76", "--modelled"]
    assert tune.main([str(model), "--trials", "2", "--jobs", "1", *common]) == 0
    said = capsys.readouterr().err
    assert "times of cortex-a76 are modelled, not measured" in said
    assert "2 trials" in said
    (entry,) = read(database, targets.get("cortex-a76"))
    assert entry.cpu == "modelled cortex-a76"
    assert entry.modelled
    out = tmp_path / "model.gq"
    assert compile_command.main([str(model), "-o", str(out), "--tune", "3", *common]) == 0
    assert "\n1 trials in" in capsys.readouterr().err  # it goes on where it was
    inspect_command.main([str(out)])
    assert " modelled " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--target", "x86-64-v4"], "QEMU has no avx512"),
        (["--target", "cortex-a76", "--threads", "2"], "leave --threads out"),
        (["--target", "cortex-a76", "--rpc", "board:9090"], "without the board of --rpc"),
        (["--target", "x86-64"], "there is nothing to tune|nothing is known"),
    ],
)
def test_what_cannot_be_modelled_is_refused(argv, message, capsys, tmp_path):
    database = ["--database", str(tmp_path / "mine.json")]
    assert tune.main(["--common-shapes", "--modelled", *argv, *database]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert list(tmp_path.iterdir()) == []
