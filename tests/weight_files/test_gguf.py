from __future__ import annotations

import struct

import numpy as np
import pytest
import torch

from gq_tvm.errors import Error
from gq_tvm.ops.weight import Weight
from gq_tvm.weight_files import gguf_header, read_weights
from gq_tvm.weight_files.forms import FORMS

gguf = pytest.importorskip("gguf")
RNG = np.random.default_rng(0)


def written(path, **tensors):
    """A file of tensors: arrays, or pairs of blocks and their type."""
    writer = gguf.GGUFWriter(path, "any")
    for name, one in tensors.items():
        if isinstance(one, tuple):
            blocks, kind = one
            writer.add_tensor(name, blocks, raw_dtype=kind)
        else:
            writer.add_tensor(name, one)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def blocks(kind, rows=6, width=512):
    """Blocks of chance, with scales that are numbers."""
    per, size = gguf.GGML_QUANT_SIZES[kind]
    made = RNG.integers(0, 256, (rows, width // per, size), dtype=np.uint8)
    for where, value in FORMS[kind.name].plain:
        if isinstance(value, tuple) and len(value) == 2:
            halves = RNG.standard_normal((*made.shape[:2], 1)).astype(np.float16)
            made[:, :, where] = halves.view(np.uint8)
    if kind.name == "MXFP4":
        made[:, :, 0] = RNG.integers(100, 140, made.shape[:2])
    return made.reshape(rows, -1)


@pytest.mark.parametrize("name", FORMS)
def test_blocks_are_codebooks_with_the_values_of_gguf(tmp_path, name):
    kind = gguf.GGMLQuantizationType[name]
    made = blocks(kind)
    weight = read_weights(written(tmp_path / "a.gguf", w=(made, kind)))["w"]
    assert isinstance(weight, Weight)
    weight.check("w")
    wanted = gguf.quants.dequantize(made, kind)
    if FORMS[name].nil:
        assert weight.zero is not None
        size = np.abs(weight.scales()) * (np.abs(weight.zero.astype(np.float32)) + 2**weight.bits)
        far = weight.by_input(size) * 2.0**-22
        assert (np.abs(weight.expand() - wanted) <= far).all()
    else:
        assert weight.zero is None
        assert np.array_equal(weight.expand(), wanted)
    assert weight.group == FORMS[name].group


def test_groups_of_one_value_are_that_value(tmp_path):
    kind = gguf.GGMLQuantizationType.Q4_1
    values = np.full((4, 64), -1.5, np.float32)
    values[:2] = 0
    made = gguf.quants.quantize(values, kind)
    weight = read_weights(written(tmp_path / "a.gguf", w=(made, kind)))["w"]
    assert isinstance(weight, Weight)
    assert np.array_equal(weight.expand(), values)


def test_plain_floats_stay_as_they_are_stored(tmp_path):
    floats = RNG.standard_normal((5, 7, 3)).astype(np.float32)
    path = written(tmp_path / "a.gguf", a=floats, b=floats[0, 0].astype(np.float16))
    weights = read_weights(path)
    assert isinstance(weights["a"], torch.Tensor)
    assert isinstance(weights["b"], torch.Tensor)
    assert np.array_equal(weights["a"].numpy(), floats)
    assert weights["b"].dtype == torch.float16


def test_a_ternary_type_is_found_by_its_values(tmp_path):
    kind = gguf.GGMLQuantizationType.TQ1_0
    told: list[str] = []
    made = gguf.quants.quantize(RNG.standard_normal((8, 512)).astype(np.float32), kind)
    weight = read_weights(written(tmp_path / "a.gguf", w=(made, kind)), told.append)["w"]
    assert isinstance(weight, Weight)
    assert np.array_equal(weight.expand(), gguf.quants.dequantize(made, kind))
    assert not told


def test_what_is_no_codebook_becomes_floats_and_is_told_of(tmp_path):
    kind = gguf.GGMLQuantizationType.Q4_1
    told: list[str] = []
    made = blocks(kind).reshape(2, 3, -1)  # experts
    weight = read_weights(written(tmp_path / "a.gguf", w=(made, kind)), told.append)["w"]
    assert isinstance(weight, torch.Tensor)
    assert np.array_equal(weight.numpy(), gguf.quants.dequantize(made, kind))
    assert told == ["w is Q4_1 and no codebook with scales of groups: it becomes floats"]


def test_scales_that_are_no_numbers_are_refused(tmp_path):
    for name, value in (("MXFP4", [255]), ("Q4_0", [0, 0x7E]), ("Q4_1", [0, 0x7C])):
        kind = gguf.GGMLQuantizationType[name]
        made = blocks(kind)
        made[3, : len(value)] = value
        with pytest.raises(Error, match=r"a.gguf: w has a scale that is NaN"):
            read_weights(written(tmp_path / "a.gguf", w=(made, kind)))


@pytest.mark.parametrize("length", [4, 20, 60, 100, 300])
def test_damaged_files_are_refused(tmp_path, length):
    path = written(tmp_path / "a.gguf", w=RNG.standard_normal((8, 32)).astype(np.float32))
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(Error, match=r"damaged|neither"):
        read_weights(path)


@pytest.mark.parametrize("count", [4, 1000])
def test_an_array_that_ends_behind_the_file_is_refused_before_it_is_read(tmp_path, count):
    """An array of so many numbers, none of which need be there, and no tensor behind it."""
    key = b"numbers"
    pair = struct.pack("<Q", len(key)) + key + struct.pack("<IIQ", 9, 5, count) + bytes(12)
    (tmp_path / "a.gguf").write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + pair)
    with pytest.raises(ValueError, match=f"{count:,} values lie behind its end"):
        gguf_header.check(tmp_path / "a.gguf")
    with pytest.raises(Error, match="is not a GGUF file or is damaged"):
        read_weights(tmp_path / "a.gguf")
