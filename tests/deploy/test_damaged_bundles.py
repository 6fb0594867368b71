"""Bundles that were damaged, by accident or with care: a sentence, never a crash."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers.bundled import altered, replanned, run, with_functions

pytestmark = pytest.mark.native

LEAST, MOST = -(2**63), 2**63 - 1


def flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("plan.txt", lambda data: data.replace(b"gq-plan 2", b"gq-plan 1"), "of this version"),
        ("plan.txt", lambda data: data[:-40], "plan.txt is damaged; copy the whole bundle again"),
        ("plan.txt", flipped, "plan.txt is damaged; copy the whole bundle again"),
        ("weights.safetensors", lambda data: data[:-1], "has the wrong size"),
        ("weights.safetensors", lambda data: data[:-64] + bytes(64), "weights.safetensors is dama"),
        ("weights.safetensors", flipped, "weights.safetensors is damaged; copy the whole bundle"),
        ("kernels.so", lambda data: data[:100], "has the wrong size"),
        ("kernels.so", flipped, "kernels.so is damaged; copy the whole bundle again"),
    ],
)
def test_damaged_copy_is_noticed(recogniser, tmp_path, name, change, reason):
    folder = altered(recogniser / "bundle", tmp_path / "bundle", {name: change})
    done = run(recogniser / "bundle" / "gq-run", "--list", "--bundle", folder)
    assert (done.returncode, done.stdout) == (2, "")
    assert reason in done.stderr
    assert done.stderr.count("\n") == 1


# Behind what the plan of a bundle says of its files: a function of views, which runs, and one of
# kernels, of which no library has any.
FUNCTIONS = """\
function views 1 0
size 0 0 0 1 8 n
value 0 input float32 0 x r0 4
value 1 view float32 0 - r0 2 2
value 2 view float32 1 - 4 r0
inputs 0
outputs 1 2
function kernels 1 2
size 0 0 0 1 8 n
value 0 input float32 0 x r0 4
value 1 input float32 1 y 3
value 2 weight uint8 128 w 16
value 3 temporary float32 0 - r0 4
value 4 temporary float32 1 - r0 4
value 5 view float32 4 - r0 2 2
value 6 constant int64 0100000000000000 - 1
value 7 output float32 0 - r0 4
inputs 0 1
outputs 7
call first layer 0 2 6 >3
call second - 3 1 =r0 >4
call third - 5 3 >7
"""


def swap(old: str, new: str) -> Callable[[str], str]:
    """A change of the first place that a pattern fits, which there must be."""

    def change(text: str) -> str:
        changed, count = re.subn(old, new, text, count=1, flags=re.MULTILINE)
        assert count == 1
        return changed

    return change


def let(*words: object) -> Callable[[str], str]:
    """A change that makes the first function compute a size."""
    line = "let 1 " + " ".join(map(str, words))
    return swap("^function views 1 0\n(.*)$", rf"function views 2 0\n\1\n{line}")


def answer(recogniser: Path, folder: Path, change: Callable[[str], str]):
    """What gq-run says of the first function."""
    changed = replanned(
        recogniser / "bundle",
        folder / "bundle",
        lambda text: change(with_functions(text, FUNCTIONS)),
    )
    np.save(folder / "x.npy", np.zeros((2, 4), np.float32))
    words = ["--function", "views", "--input", f"x={folder / 'x.npy'}"]
    return run(recogniser / "bundle" / "gq-run", "--bundle", changed, *words)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        # numbers that no machine has
        (let("div", LEAST, -1), "a size is beyond 64 bits; give smaller inputs"),
        (let("add", MOST, "r0"), "a size is beyond 64 bits"),
        (let("sub", LEAST, "r0"), "a size is beyond 64 bits"),
        (let("mul", 2**62, "r0"), "a size is beyond 64 bits"),
        (let("div", 1, 0), "divides a size by zero"),
        (let("mod", 1, 0), "divides a size by zero"),
        (let("add", "r1", 1), "register 1 is computed from a later one"),
        (swap("^size 0 0 0", "size 0 1 0"), "told by an input that is not there"),
        (swap("^size 0 0 0", "size 0 0 2"), "told by a dimension that is not there"),
        (swap("^size 0", "size 1"), "says 1 where a number up to 0 belongs"),
        (swap("w 16$", f"w {2**40} {2**40}"), "more bytes than memory can hold"),
        (swap("w 16$", "w -16"), "says -16 where a number from 0 up belongs"),
        (swap("w 16$", "w r0"), "value 2 lies outside of the weights"),
        (swap("r0 2 2$", "r9 2 2"), "value 1 has the size of an unknown register"),
        (swap("r0 2 2$", 65 * " 1"), "value 1 has too many dimensions"),
        # memory that belongs to something else
        (swap("weight uint8 128", "weight uint8 132"), "or not at a multiple of 64 bytes"),
        (swap("weight uint8 128", "weight uint8 1000000"), "value 2 lies outside of the weights"),
        (swap("r0 2 2$", "r0 2 20"), "value 1 of [2, 2, 20] views value 0 of [2, 4]; if the"),
        (swap("r0 2 2$", "r0 2 1"), "value 1 of [2, 2, 1] views value 0 of [2, 4]"),
        (swap("4 r0$", f"r0 {2**62}"), "a tensor has more bytes than memory can hold"),
        (swap("view float32 0", "view float32 1"), "value 1 views a later one"),
        (swap("temporary float32 1", "temporary float32 0"), "uses memory that holds something"),
        (swap("temporary float32 1", "temporary float32 2"), "lies in a slot that is not there"),
        (swap("0100000000000000", "01"), "value 6 has not as many bytes as its shape wants"),
        (swap(" 6 >3$", " 6 3"), "call 0 (first) reads what nothing has written"),
        (swap("layer 0 2 6", "layer 0 >2 6"), "call 0 (first) writes what is no result"),
        (swap("layer 0 2 6", "layer 0 99 6"), "names value 99, which is not there"),
        (swap("=r0 >4$", "=r9 >4"), "call 1 (second) takes an unknown register"),
        (swap("=r0 >4$", "=r0 >3"), "call 1 (second) writes what is no result, or written"),
        # lines that are missing, or there twice
        (swap("^outputs 1 2$", ""), "in function views the line outputs is missing"),
        (swap("^outputs 7$", "outputs 5"), "names value 5, which does not outlive a call or is"),
        (swap("^inputs 0 1$", "inputs 1 0"), "names what is not its input 0"),
        (swap("^inputs 0 1$", "inputs 0"), "does not name every input"),
        (swap("^call second .*$", ""), "reads what nothing has written"),
        (swap("^(weights .*)$", r"\1\n\1"), "says again what an earlier line has said"),
        (swap("^(function views .*)$", r"\1\n\1"), "says again what an earlier line has said"),
        (swap("^(inputs 0)$", r"\1\n\1"), "says again what an earlier line has said"),
        (swap("^machine .*$", ""), "there is no line machine"),
        (swap("^kernels .*$", ""), "there is no line weights or no line kernels"),
        (swap("^machine ", "inputs 0\nmachine "), "line 2 stands outside of a function"),
        # words that nobody knows
        (swap("^machine ", "machine z"), "is for zx86_64, this program is for x86_64"),
        (swap("^features", "features moon"), "this CPU lacks moon"),
        (swap("^call second", "cell second"), "says cell where one of call, features, function"),
        (swap("^call second", "call _second"), "call 1 (_second) names no kernel"),
        (swap("1 view", "1 vista"), "says vista where one of constant, input, output"),
        (swap("1 view", "2 view"), "says 2 where a number up to 1 belongs"),
        (swap("view float32", "view float32x4"), "has the dtype float32x4, which nobody knows"),
        (swap("view float32 0", "view float32 zero"), "says zero where a whole number of 64 bits"),
        (swap("view float32 0", f"view float32 {2**64}"), f"says {2**64} where a whole number of"),
        (swap("0100000000000000", "010000000000000"), "where two hexadecimal digits a byte belo"),
        (swap("0100000000000000", "0x00000000000000"), "where two hexadecimal digits a byte bel"),
        (swap("^(function views 1) 0", rf"\1 {2**20 + 1}"), "a number up to 1048576 belongs"),
        (swap("^(function views 1) 0", r"\1"), "ends early"),
        (swap("^(machine .*)$", r"\1 too"), "line 2 holds more than belongs there: too"),
    ],
)
def test_plan_that_was_altered_with_care_is_refused(recogniser, tmp_path, change, reason):
    done = answer(recogniser, tmp_path, change)
    assert done.returncode == 2, done.stderr
    assert reason in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text,
        let("mod", LEAST, -1),
        let("mod", "r0", LEAST),
        let("div", LEAST, 1),
        let("add", MOST, LEAST),
        let("max", LEAST, MOST),
    ],
)
def test_sizes_are_computed_to_the_ends_of_64_bits(recogniser, tmp_path, change):
    done = answer(recogniser, tmp_path, change)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("task", "lm", "the model's task is lm; only RNN transducers (rnnt) and CTC"),
        ("tokens", "%zz", "the plan's tokens are damaged"),
        ("sample_rate", "999", "is 999, it must be a whole number from 1000 to 768000; export"),
        ("num_mel_bins", "40.5", "is 40.5, it must be a whole number from 1 to 1024"),
        ("stack", "0", "the model's stack is 0, it must be a whole number from 1 to 64"),
        ("chunk_frames", "-4", "is -4, it must be a whole number from 1 to 512"),
        ("tail_ms", "60001", "the model's tail_ms is 60001, it must be a number from 0 to 60000"),
        ("lead_ms", "nan", "the model's lead_ms is nan, it must be a number from 0 to 60000"),
        ("low_hz", "-700", "the model's low_hz is -700, it must be a number from 0 to 384000"),
        ("high_hz", "1e300", "is 1e300, it must be a number from -384000 to 384000"),
        ("high_hz", "4001", "it must be above low_hz and at most half the sample rate"),
        ("high_hz", "60", "it must be above low_hz and at most half the sample rate"),
        ("quietest", "1e300", "is 1e300, it must be a number from -100 to 100"),
        ("release", "x", "the model's release is x, it must be a number from 0 to 1000"),
        ("frame_shift_ms", "0.125", "is 0.125, it must be a number from 1 to 1000"),
        ("frame_shift_ms", "26", "it must be from frame_length_ms / 32 to frame_length_ms"),
        ("mean", "1 2", "has 2 means and 40 deviations for 40 mel bins; export"),
        ("deviation", " ".join(["0"] * 40), "holds 0, it must hold numbers from 0.000001 to 1000"),
    ],
)
def test_recogniser_of_impossible_settings_is_refused(
    recogniser, recordings, tmp_path, name, value, reason
):
    change = swap(rf"^metadata {name} .*$", f"metadata {name} {value}")
    folder = replanned(recogniser / "bundle", tmp_path / "bundle", change)
    done = run(recogniser / "bundle" / "gq-run", "--bundle", folder, recordings[0])
    assert done.returncode == 2
    assert reason in done.stderr
    assert done.stderr.count("\n") == 1


WORDS = [*map(str, (0, 1, -1, 2, 63, 64, 65, 160, 2**31, 2**63 - 1, -(2**63), 2**64))]
WORDS += ["r0", "r1", "-", "=r0", "=5", ">1", "x", "view", "temporary", "output", "weight", "int64"]


def mutated(text: str, chance: random.Random) -> str:
    """A plan with one to three words or lines changed, left out, doubled or in another place."""
    lines = text.splitlines()
    for _ in range(chance.randint(1, 3)):
        at, other = chance.randrange(1, len(lines) - 1), chance.randrange(1, len(lines) - 1)
        words = lines[at].split()
        word = chance.randrange(len(words))
        action = chance.randrange(6)
        if action == 0:
            lines[at], lines[other] = lines[other], lines[at]
        elif action == 1:
            lines[at] = lines[other]
        elif action == 2:
            number = chance.randrange(len(words))
            words[word], words[number] = words[number], words[word]
        elif action == 3 and re.fullmatch(r"-?\d+", words[word]):
            words[word] = str(int(words[word]) + chance.choice((-64, -1, 1, 64)))
        else:
            words[word] = chance.choice(WORDS)
        if action >= 2:
            lines[at] = " ".join(words)
    return "\n".join(lines)


def test_no_altered_plan_crashes(recogniser, recordings, tmp_path):
    chance = random.Random(0)
    refused = 0
    for _ in range(150):
        folder = replanned(
            recogniser / "bundle", tmp_path / "bundle", lambda text: mutated(text, chance)
        )
        done = run(recogniser / "bundle" / "gq-run", "--bundle", folder, recordings[1], timeout=60)
        assert done.returncode in (0, 2), (folder / "plan.txt").read_text()
        refused += done.returncode == 2
        if done.returncode:
            assert re.fullmatch(r"error: .+\n", done.stderr)
    assert refused > 100
