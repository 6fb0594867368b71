from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.weights import FORMS, weight
from hypothesis import HealthCheck, given, settings
from safetensors.torch import load_file, save_file

from gq_tvm.__main__ import main
from gq_tvm.errors import Error
from gq_tvm.ops.weight import Weight
from gq_tvm.weight_files import read_weights, write_weights
from gq_tvm.weight_files.packed import METADATA


@settings(
    deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(made=FORMS)
def test_weights_come_back_as_they_were(tmp_path, made):
    path, made = tmp_path / "a.safetensors", replace(made, outliers=None)
    write_weights({"layer.weight": made, "layer.bias": torch.arange(3.0)}, path)
    back = read_weights(path)
    held = back["layer.weight"]
    assert isinstance(held, Weight)
    assert set(back) == {"layer.weight", "layer.bias"}
    for name in ("indices", "codebook", "scale", "zero"):
        one, other = getattr(held, name), getattr(made, name)
        assert other is None if one is None else np.array_equal(one, other)
        assert one is None or one.dtype == other.dtype
    assert load_file(path)["layer.weight.indices"].numel() == -(-made.indices.size * made.bits // 8)


def test_indices_of_convolutions_and_of_many_pieces_come_back(tmp_path, monkeypatch):
    monkeypatch.setattr("gq_tvm.ops.bit_stream._AT_ONCE", 16)
    made = weight(12, 35, 3)
    made = replace(made, indices=made.indices.reshape(12, 7, 5))
    write_weights({"w": made}, tmp_path / "a")
    held = read_weights(tmp_path / "a")["w"]
    assert isinstance(held, Weight)
    assert np.array_equal(held.indices, made.indices)


def test_weights_that_share_memory_are_written_each(tmp_path):
    table = np.arange(8, dtype=np.float32)[None]
    one = Weight(np.arange(32, dtype=np.uint8).reshape(2, 16) % 8, table, np.ones(1, np.float32))
    bias = torch.ones(3)
    path = tmp_path / "a.safetensors"
    write_weights({"a": one, "b": one, "c": bias, "d": bias}, path)
    back = read_weights(path)
    np.testing.assert_array_equal(back["a"].expand(), back["b"].expand())
    assert all(torch.equal(torch.as_tensor(back[name]), bias) for name in "cd")


def test_floats_of_few_values_are_codebooks(tmp_path):
    table = torch.randn(16)
    palette = table[torch.randint(0, 16, (32, 48))]
    eight = torch.randn(64, 64).to(torch.float8_e4m3fn)
    four = torch.randint(0, 256, (16, 24), dtype=torch.uint8)
    tensors = {
        "palette": palette, "half": palette.half(), "eight": eight,
        "four": four.view(torch.float4_e2m1fn_x2), "free": torch.randn(32, 48),
        "ids": torch.arange(4),
    }  # fmt: skip
    save_file(tensors, tmp_path / "a.safetensors")
    weights = read_weights(tmp_path / "a.safetensors")
    codebooks = {name: one for name, one in weights.items() if isinstance(one, Weight)}
    bits = {name: one.bits for name, one in codebooks.items()}
    assert bits == {"palette": 4, "half": 4, "eight": 8, "four": 4}
    found = {name: one.expand() for name, one in codebooks.items()}
    assert np.array_equal(found["palette"], palette)
    assert np.array_equal(found["eight"], eight.float())
    levels = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])
    codes = np.stack([four & 15, four >> 4], -1).reshape(16, 48)
    assert np.array_equal(found["four"], np.where(codes & 8, -1, 1) * levels[codes & 7])
    free = weights["free"]
    assert isinstance(free, torch.Tensor)
    assert torch.equal(free, tensors["free"])


ENTRY = {"shape": [12, 70], "bits": 4}


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        (None, "without a shape and 1 to 8 bits"),
        ({**ENTRY, "bits": 9}, "without a shape and 1 to 8 bits"),
        ({**ENTRY, "shape": [12, -70]}, "without a shape and 1 to 8 bits"),
        ({**ENTRY, "shape": [2**40, 2**40]}, "has not the bytes for them"),
        ({**ENTRY, "bits": 3}, "has not the bytes for them"),
        ({**ENTRY, "shape": [84, 10]}, "scale must have shape"),
    ],
)
def test_metadata_that_lie_are_refused(tmp_path, entry, sentence):
    path = tmp_path / "a.safetensors"
    write_weights({"w": weight(scale="row")}, path)
    save_file(load_file(path), path, {METADATA: json.dumps({"w": entry})})
    with pytest.raises(Error, match=sentence):
        read_weights(path)


def test_other_files_are_refused(tmp_path, capsys):
    path = tmp_path / "a.safetensors"
    with pytest.raises(Error, match="is no file"):
        read_weights(path)
    for content in (b"", b"PK\x03\x04 and so on", b"\xff" * 8 + b"{", b"\x10" + bytes(7) + b"{"):
        path.write_bytes(content)
        with pytest.raises(Error, match=r"neither a GGUF|damaged"):
            read_weights(path)
    assert main(["import", str(path), "-o", str(path)]) == 2
    assert "choose another --output" in capsys.readouterr().err


def test_the_command_writes_codebooks(tmp_path, capsys):
    source, out = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    tensors = {"a.weight": torch.randn(4)[torch.randint(0, 4, (64, 64))], "a.bias": torch.randn(64)}
    save_file(tensors, source)
    assert main(["import", str(source), "-o", str(out)]) == 0
    assert "2 tensors, codebooks: 1 of 2 bits" in capsys.readouterr().out
    held = read_weights(out)["a.weight"]
    assert isinstance(held, Weight)
    assert np.array_equal(held.expand(), tensors["a.weight"])
