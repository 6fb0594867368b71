"""What a recogniser is beside its networks: written and read in Python, read in C++."""

from __future__ import annotations

import json
import re

from gq_tvm.core.compiled import SOURCES
from gq_tvm.plan.recogniser import TASKS, words
from gq_tvm.speech import FeatureSettings
from gq_tvm.speech.decoding import DECODERS
from gq_tvm.speech.description import RecogniserDescription

DESCRIBED = RecogniserDescription(
    task="ctc",
    tokens=("", "a", " "),
    features=FeatureSettings(num_mel_bins=4, mean=(9.0,) * 4, deviation=(3.0,) * 4),
    states={"encoder": {"h": [1, 2]}},
    chunk_frames=3,
    lead_ms=20.0,
    tail_ms=30.0,
    training={"seed": 3},
)


def native(*names: str) -> str:
    return "".join((SOURCES / "speech" / name).read_text() for name in names)


def test_what_is_written_is_read():
    written = json.loads(json.dumps(DESCRIBED.to_dict()))
    assert RecogniserDescription.read(written) == DESCRIBED
    assert (DESCRIBED.lead, DESCRIBED.tail) == (160, 240)


def test_what_is_left_out_has_its_default():
    optional = ("chunk_frames", "lead_ms", "tail_ms", "training", "blank")
    written = {key: one for key, one in DESCRIBED.to_dict().items() if key not in optional}
    found = RecogniserDescription.read(written)
    assert (found.chunk_frames, found.lead, found.tail, found.training) == (4, 0, 0, {})


def test_the_core_has_the_same_tasks():
    refusal = native("decoding.cc").partition("void Decoder::check")[2].partition("\n}")[0]
    assert set(re.findall(r'task != "(\w+)"', refusal)) == DECODERS.keys() == set(TASKS)


def test_the_core_reads_no_other_values():
    asked = re.findall(
        r'(?:whole|numbers?|metadata|silence)\("(\w+)"', native("metadata.cc", "speech.cc")
    )
    assert len(set(asked)) > 10
    assert set(asked) <= words(DESCRIBED.to_dict()).keys()


def test_a_plan_has_every_value_under_its_name():
    found = words(DESCRIBED.to_dict())
    assert found["tokens"] == ("", "a", " ")
    assert found["mean"] == ("9.0",) * 4
    assert found["tail_ms"] == ("30.0",)
    assert not {"states", "training", "kind"} & found.keys()
    assert words({"task": "translate"}) == words(None) == {}
