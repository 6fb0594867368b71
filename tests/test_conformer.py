"""A Conformer, end to end: right, without a transposition, everything fused that can be."""

from __future__ import annotations

import pytest
import torch
from helpers.codebook_models import compiled, export, frames, relative_error
from helpers.relax_modules import calls
from helpers.small_networks import whole_conformer
from torch import nn
from torch.export import Dim

import gq_tvm
from gq_tvm import frontend, passes, targets
from gq_tvm.build import build

pytestmark = pytest.mark.export


def lowered(model: nn.Module, *, symbolic: bool = False):
    program = export(
        model, torch.randn(20, 32), dynamic=({0: Dim("T", min=2)},) if symbolic else None
    )
    translated = frontend.translate(frontend.read(program), None)
    return passes.lower(translated.module, targets.get("x86-64-v4"), names=translated.names)


@pytest.mark.parametrize("symbolic", [True, False])
def test_kernels_of_a_block(symbolic):
    module, parameters = lowered(whole_conformer("int8"), symbolic=symbolic)
    used = [call.args[0].name_hint.rstrip("0123456789") for call in calls(module, "relax.call_tir")]
    kernels = [name for name in used if "reshape" not in name]  # these only change the view
    fused = ["layer_norm"] * 5 + ["linear"] * 10 + ["attention", "depthwise_conv1d"]
    assert sorted(kernels) == sorted(fused)
    assert len(parameters.layers) == 11


@pytest.mark.parametrize("activation", ["int8", "fp32"])
def test_any_number_of_frames(activation, tmp_path):
    model = whole_conformer(activation)
    program = export(model, torch.randn(20, 32), dynamic=({0: frames(2, 90)},))
    net = compiled(program, tmp_path)
    for length in (2, 3, 20, 70):
        x = torch.randn(length, 32)
        assert relative_error(net(x), model(x)[0]) < 1e-4


@pytest.mark.parametrize("where", ["cortex-a76", "x86-64-v3", "x86-64", "cortex-a72"])
def test_on_other_targets(where, emulated, tmp_path):
    model, x = whole_conformer(), torch.randn(21, 32)
    target = targets.get(where)
    device = emulated(target.emulator_cpu) if target.emulator_cpu else None
    build(export(model, x), target=where).save(tmp_path / "model.gq")
    y = gq_tvm.load(tmp_path / "model.gq", device)(x.numpy())
    assert relative_error(torch.from_numpy(y), model(x)[0]) < 1e-5
