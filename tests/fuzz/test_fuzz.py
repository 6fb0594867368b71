"""Files that lie: what broke readers once, and a few of chance. `make fuzz` tries many."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzz import one_case
from fuzz.readers import READERS

CORPUS = sorted(path for path in (Path(__file__).parent / "corpus").rglob("*") if path.is_file())
SLOW = ("pt2", "onnx", "wav")


@pytest.mark.parametrize("file", CORPUS, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_what_broke_a_reader_is_refused_in_a_sentence(file, tmp_path):
    reader = READERS[file.parent.name]
    if reader.name == "plan":
        reader.good(tmp_path)
    shutil.copy(file, tmp_path / reader.file)
    assert one_case.tried(reader, tmp_path / reader.file) is None


@pytest.mark.parametrize("name", [one for one in READERS if one not in SLOW])
def test_a_file_that_lies_is_taken_or_refused_in_a_sentence(name, tmp_path):
    reader = READERS[name]
    good = reader.good(tmp_path)

    @settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.randoms(use_true_random=False))
    def try_one(chance: random.Random) -> None:
        path = tmp_path / reader.file
        path.write_bytes(reader.change(chance.choice(good), chance))
        fault = one_case.tried(reader, path)
        assert fault is None, fault.account

    try_one()
