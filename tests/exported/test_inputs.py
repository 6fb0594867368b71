"""Inputs of programs in .npz files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.float_models import mixed
from torch import nn

from gq_tvm import Error
from gq_tvm.exported import read_inputs

pytestmark = pytest.mark.export


@pytest.fixture(scope="module")
def programs():
    return {"main": mixed()}


def saved(path: Path, arrays: Mapping[str, Any]) -> Path:
    np.savez(path, **arrays)
    return path


def good(batch: int = 2) -> dict[str, np.ndarray]:
    state = np.zeros((batch, 8), np.float32)
    return {"ids": np.ones((batch, 5), np.int64), "state_h": state, "state_c": state}


def test_an_axis_more_holds_examples_and_the_others_serve_all(tmp_path, programs):
    saved(tmp_path / "one.npz", good(3))
    (tensors,) = read_inputs([tmp_path / "one.npz"], programs)
    assert [tuple(one.shape) for one in tensors] == [(3, 5), (3, 8), (3, 8)]
    many = {**good(), "ids": np.arange(20).reshape(2, 2, 5)}
    saved(tmp_path / "many.npz", many)
    examples = read_inputs([tmp_path / "many.npz", tmp_path / "one.npz"], programs)
    assert len(examples) == 3
    assert torch.equal(examples[1][0], torch.arange(10, 20).reshape(2, 5))
    assert tuple(examples[1][1].shape) == (2, 8)


def test_several_programs_are_named(tmp_path):
    x = torch.zeros(2, 6)
    programs = {name: torch.export.export(nn.Linear(6, 6), (x,)) for name in ("one", "two")}
    saved(tmp_path / "in.npz", {"two.input": np.zeros((3, 2, 6), np.float32)})
    assert [example[0] for example in read_inputs([tmp_path / "in.npz"], programs)] == ["two"] * 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ids": None}, "has no array ids, an input of main; it has state_c, state_h"),
        ({"ids": np.ones((2, 5), np.int32)}, "ids in .*npz is int32, the model takes int64"),
        (
            {"state_h": np.zeros((2, 7), np.float32)},
            "state_h .* 7 along axis 1 of the input, the m",
        ),
        ({"state_h": np.zeros((3, 8), np.float32)}, "state_h .* 3 along axis 0 .* where ids has 2"),
        ({"state_h": np.zeros(8, np.float32)}, "has 1 axes, the model takes 2"),
        ({"state_c": np.full((2, 8), np.nan, np.float32)}, "state_c .* holds a NaN"),
        ({"ids": np.ones((0, 2, 5), np.int64)}, "ids in .* holds no example"),
        (
            {"ids": np.ones((4, 2, 5), np.int64), "state_c": np.zeros((3, 2, 8), np.float32)},
            "unlike numbers of examples: ids 4, state_c 3",
        ),
        (dict.fromkeys(("ids", "state_h", "state_c")), "has the inputs of no function; name the"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, programs, change, message):
    arrays = {name: one for name, one in {**good(), **change}.items() if one is not None}
    saved(tmp_path / "in.npz", arrays)
    with pytest.raises(Error, match=message):
        read_inputs([tmp_path / "in.npz"], programs)
