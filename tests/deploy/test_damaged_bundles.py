"""Bundles that were damaged, by accident or with care: a sentence, never a crash."""

from __future__ import annotations

import random
import re
from collections.abc import Callable

import numpy as np
import pytest
from bundled import altered, replanned, run

pytestmark = pytest.mark.slow  # the first bundle for a machine takes a minute

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


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> list[str]:
    """The words that hand the predictor its inputs."""
    folder = tmp_path_factory.mktemp("inputs")
    state = np.zeros((1, 1, 64), np.float32)
    arrays: dict[str, np.ndarray] = {"token": np.zeros((1, 1), np.int64), "h": state, "c": state}
    words = ["--function", "predictor"]
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
        words += ["--input", f"{name}={folder / name}.npy"]
    return words


def lets(*lines: str) -> Callable[[str], str]:
    """A change that makes the predictor compute sizes."""
    sizes = "\n".join(f"let {i} {line}" for i, line in enumerate(lines))
    return lambda text: text.replace(
        "function predictor 0 4", f"function predictor {len(lines)} 4\n{sizes}"
    )


def swap(old: str, new: str) -> Callable[[str], str]:
    def change(text: str) -> str:
        assert len(re.findall(old, text, flags=re.MULTILINE)) > 0
        return re.sub(old, new, text, count=1, flags=re.MULTILINE)

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        # numbers that no machine has
        (lets(f"div {LEAST} -1"), "a size is beyond 64 bits; give smaller inputs"),
        (lets(f"add {MOST} 1"), "a size is beyond 64 bits"),
        (lets(f"sub {LEAST} 1"), "a size is beyond 64 bits"),
        (lets(f"mul {2**62} 2"), "a size is beyond 64 bits"),
        (lets("div 1 0"), "divides a size by zero"),
        (lets("mod 1 0"), "divides a size by zero"),
        (lets("add r0 1"), "register 0 is computed from a later one"),
        (swap(r"float32 0 - 1 32$", f"float32 0 - {2**40} {2**40}"), "more bytes than memory"),
        (swap(r"float32 0 - 1 32$", "float32 0 - -1 32"), "says -1 where a number from 0 up"),
        (swap(r"float32 0 - 1 32$", "float32 0 - 1 r7"), "the size of an unknown register"),
        (swap(r"float32 0 - 1 32$", "float32 0 -" + 65 * " 1"), "too many dimensions"),
        # memory that belongs to something else
        (swap(r"(value \d+ weight \w+) 135104", r"\1 135108"), "not at a multiple of 64 bytes"),
        (swap(r"(value \d+ weight \w+) 135104", r"\1 152512"), "outside of the weights"),
        (swap(r"(view \w+ \d+ - 1 1) 64$", r"\1 640"), "of [1, 1, 640] views value"),
        (swap(r"(value 16 view \w+) 0", r"\1 16"), "value 16 views a later one"),
        (swap(r"(value 22 temporary \w+) 2", r"\1 3"), "memory that holds something else"),
        (swap(r"(value 22 temporary \w+) 2", r"\1 4"), "in a slot that is not there"),
        (swap(r"^(call lstm1 .*) >21 ", r"\1 21 "), "reads what nothing has written"),
        (swap(r"^(call lstm1 .*) 5 6 ", r"\1 >5 6 "), "writes what is no result"),
        (swap(r"^(call lstm1 .*) 5 6 ", r"\1 5 99 "), "names value 99, which is not there"),
        (swap(r"^(call lstm1 .*) 5 6 ", r"\1 5 =r9 "), "takes an unknown register"),
        (swap(r"^(call lstm1 .*) 5 6 ", r"\1 6 5 "), "the kernel lstm1 failed"),
        # lines that are missing, or there twice
        (swap(r"^outputs 32 28 30$", ""), "in function predictor the line outputs is missing"),
        (swap(r"^outputs 32 28 30$", "outputs 21"), "names value 21, which does not outlive"),
        (swap(r"^inputs 0 1 2$", "inputs 0 2 1"), "names what is not its input 1"),
        (swap(r"^inputs 0 1 2$", "inputs 0 1"), "does not name every input"),
        (swap(r"^call lstm1 .*$", ""), "reads what nothing has written"),
        (swap(r"^(weights .*)$", r"\1\n\1"), "says again what an earlier line has said"),
        (swap(r"^(function predictor .*)$", r"\1\n\1"), "says again what an earlier line has"),
        (swap(r"^machine .*$", ""), "there is no line machine"),
        (swap(r"^kernels .*$", ""), "there is no line weights or no line kernels"),
        # words that nobody knows
        (swap(r"^machine ", "machine z"), "is for zx86_64, this program is for x86_64"),
        (swap(r"^features", "features moon"), "this CPU lacks moon"),
        (swap(r"^call lstm1", "cell lstm1"), "says cell where one of call, features, function"),
        (swap(r"^call lstm1", "call lstm9"), "kernels.so lacks lstm9; bundle the model again"),
        (swap(r"^call lstm1", "call _library_ctx"), "names no kernel"),
        (swap(r"value 16 view", "value 16 vista"), "says vista where one of constant, input"),
        (swap(r"value 16 view", "value 17 view"), "says 17 where a number up to 16 belongs"),
        (swap(r"view int64", "view int6x4"), "has the dtype int6x4, which nobody knows"),
        (swap(r"view int64 0", "view int64 zero"), "says zero where a whole number of 64 bits"),
        (swap(r"view int64 0", f"view int64 {2**64}"), f"says {2**64} where a whole number of 64"),
        (swap(r"^(inputs 0 1 2)$", r"\1 x"), "says x where a whole number of 64 bits belongs"),
        (swap(r"^(function joint) 0", rf"\1 {2**20 + 1}"), "where a number up to 1048576 belongs"),
        (swap(r"^(function joint) 0.*", r"\1"), "ends early"),
        (swap(r"^(machine .*)$", r"\1 too"), "holds more than belongs there: too"),
    ],
)
def test_plan_that_was_altered_with_care_is_refused(recogniser, inputs, tmp_path, change, reason):
    folder = replanned(recogniser / "bundle", tmp_path / "bundle", change)
    done = run(recogniser / "bundle" / "gq-run", "--bundle", folder, *inputs)
    assert done.returncode == 2, done.stderr
    assert reason in done.stderr
    assert done.stderr.count("\n") == 1


def test_sizes_are_computed_to_the_ends_of_64_bits(recogniser, inputs, tmp_path):
    change = lets(f"mod {LEAST} -1", f"div {LEAST} 1", f"add {MOST} {LEAST}", f"max {LEAST} {MOST}")
    folder = replanned(recogniser / "bundle", tmp_path / "bundle", change)
    done = run(recogniser / "bundle" / "gq-run", "--bundle", folder, *inputs)
    assert done.returncode == 0, done.stderr


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
