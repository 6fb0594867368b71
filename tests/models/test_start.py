"""Float checkpoints that a training or an allocation begins with, and those that are refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gq_tvm.errors import Error
from gq_tvm.models.configuration.config import read
from gq_tvm.models.networks.network import build
from gq_tvm.models.training import checkpoint, start

CONFIG = """
output = "digits"
[model.encoder]
size = 8
layers = 1
[model.head]
kind = "ctc"
[[corpus]]
kind = "manifest"
file = "all.jsonl"
[[corpus]]
role = "test"
kind = "manifest"
file = "all.jsonl"
[fp32]
steps = 6
"""


def test_float_weights_to_start_from(tmp_path):
    (tmp_path / "small.toml").write_text(CONFIG)
    found = read(str(tmp_path / "small.toml"))
    tensors = {f"model.{k}": v for k, v in build(found.network).state_dict().items()}
    whole = {
        "model": found.network.to_dict(),
        "features": replace(found.features, mean=(-5.0,) * 40, deviation=(1.0,) * 40).to_dict(),
        "configuration": found.decisive("fp32"),
        "phase": "fp32",
        "step": 6,
    }
    path = tmp_path / "a.safetensors"
    checkpoint.save(path, tensors, whole)
    assert start.float_checkpoint(path, found)[2] == 6
    checkpoint.save(path, tensors, {**whole, "step": 5})
    with pytest.raises(Error, match=r"stopped at step 5 of 6; finish .* fp32\.initial"):
        start.float_checkpoint(path, found)
    started = replace(found, fp32=replace(found.fp32, initial=path))
    assert (start.configured(started) or [None])[-1] == 5
    for key in ("model", "features", "step"):
        checkpoint.save(path, tensors, {k: v for k, v in whole.items() if k != key})
        with pytest.raises(Error, match=f"does not say its {key}; give a checkpoint of"):
            start.float_checkpoint(path, found)
    checkpoint.save(path, tensors, [])  # type: ignore[arg-type]
    with pytest.raises(Error, match="is no checkpoint of"):
        start.float_checkpoint(path, found)
