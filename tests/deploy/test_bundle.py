"""Bundles: what is copied to a device answers as Python's runtime does, and refuses in words."""

from __future__ import annotations

import platform
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.bundled import run
from helpers.codebook_models import Linear, export, frames
from helpers.small_networks import whole_conformer

import gq_tvm
from gq_tvm import Error, cache, deploy, targets
from gq_tvm.build import build
from gq_tvm.runtime.artefact.folder import Artefact
from gq_tvm.runtime.devices import board
from gq_tvm.speech import audio
from gq_tvm.toolchain.zig import compile_native

pytestmark = pytest.mark.native

DIGITS = Path(gq_tvm.__file__).parent / "models" / "digits"


def called(
    bundle: Path, folder: Path, inputs: dict[str, np.ndarray], count: int
) -> list[np.ndarray]:
    """The outputs of gq-run."""
    words: list[object] = [bundle / "gq-run", "--function", "main"]
    for name, array in inputs.items():
        np.save(folder / f"{name}.npy", array)
        words += ["--input", f"{name}={folder / name}.npy"]
    outputs = [folder / f"output{i}.npy" for i in range(count)]
    for path in outputs:
        words += ["--output", path]
    done = run(*words)
    assert done.returncode == 0, done.stderr
    return [np.load(path) for path in outputs]


@pytest.mark.parametrize("length", [1, 3, 40])
def test_bundle_answers_bit_for_bit_as_python(network, tmp_path, length):
    rng = np.random.default_rng(length)
    x, h, c = (
        rng.standard_normal(shape).astype(np.float32) for shape in ((2, length, 10), (2, 8), (2, 8))
    )
    got = called(network / "bundle", tmp_path, {"x": x, "h": h, "c": c}, 3)
    for one, wanted in zip(got, gq_tvm.load(network / "model.gq")(x, h, c), strict=True):
        np.testing.assert_array_equal(one, wanted)


def test_conformer_of_any_length(tmp_path):
    program = export(whole_conformer("int8"), torch.randn(20, 32), dynamic=({0: frames(2, 90)},))
    artefact = build(program)
    artefact.save(tmp_path / "model.gq")
    deploy.write(artefact, tmp_path / "bundle")
    net = gq_tvm.load(tmp_path / "model.gq")
    for length in (2, 20, 77):
        x = np.random.default_rng(length).standard_normal((length, 32)).astype(np.float32)
        (y,) = called(tmp_path / "bundle", tmp_path, {"x": x}, 1)
        np.testing.assert_array_equal(y, net(x))


def python_text(artefact: Path, path: Path) -> str:
    from gq_tvm.recognition import recogniser_of

    recogniser = recogniser_of(gq_tvm.load(artefact), "digits")
    return recogniser.transcribe(audio.read(path, recogniser.sample_rate))


def test_recogniser_says_what_python_says(recogniser, recordings):
    done = run(recogniser / "bundle" / "gq-run", "--profile", *recordings)
    texts = [python_text(recogniser / "model.gq", path) for path in recordings]
    assert done.stdout.splitlines() == texts
    assert "real-time factor" in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("peak memory")]
    peak, weights = (int(word) for word in line.replace(",", "").split() if word.isdigit())
    assert peak <= weights + 8 * 1024  # kB


def test_example_is_a_recogniser(recogniser, recordings, tmp_path):
    """The header, the library and the example, as someone embeds them."""
    bundle = recogniser / "bundle"
    options = [f"-L{bundle}", "-lgq", f"-Wl,-rpath,{bundle}"]
    source, program, kept = bundle / "example.c", tmp_path / "example", cache.root() / "zig"
    compile_native([source], program, platform.machine(), [bundle], options, kept)
    path = recordings[0]
    heard = (audio.read(path, 8000) * 32768).astype("<i2").tobytes()
    done = subprocess.run([tmp_path / "example", bundle, "8000"], input=heard, capture_output=True)
    assert done.stdout.decode() == python_text(recogniser / "model.gq", path) + "\n"
    for folder, rate, reason in (
        (tmp_path, 8000, "plan.txt cannot be read"),
        (bundle, 16000, "record at 8000 Hz"),
    ):
        refused = run(tmp_path / "example", folder, rate)
        assert refused.returncode == 2
        assert reason in refused.stderr


@pytest.mark.emulated
@pytest.mark.parametrize(
    ("target", "cpu"),
    [("arm", "cortex-a53"), ("cortex-a76", "cortex-a76"), ("cortex-a7", "cortex-a7")],
)
def test_emulated_arm_says_the_same(target, cpu, recogniser, recordings, emulated, tmp_path):
    machine = targets.get(target).machine
    emulated(cpu, machine)  # skips where there is no emulator
    deploy.write(build(DIGITS / "digits.pt2", target=target), tmp_path / "bundle")
    emulator = board.locate().emulator(machine, cpu)
    done = run(*emulator, tmp_path / "bundle" / "gq-run", *recordings[:2])
    assert done.stdout.splitlines() == [
        python_text(recogniser / "model.gq", path) for path in recordings[:2]
    ]
    older = {"cortex-a76": ("cortex-a53", "dotprod"), "cortex-a7": ("cortex-a9", "vfpv4")}
    if target in older:
        other, missing = older[target]
        done = run(*emulator[:-1], other, tmp_path / "bundle" / "gq-run", recordings[0])
        assert done.returncode == 2
        assert f"this CPU lacks {missing}" in done.stderr


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--function", "nope"], "there is no function nope; the model has main"),
        (["--function", "main"], "input x is missing; give --input x=FILE.npy"),
        (["--function", "main", "--input", "x"], "--input takes NAME=FILE.npy"),
        (["--function", "main", "--threads", "0"], "--threads takes a whole number from 1 up"),
        (["--nope"], "there is no option --nope"),
        ([], "give either recordings or --function"),
        (["a.wav"], "the model is no speech recogniser"),
    ],
)
def test_misuse_is_one_sentence(network, words, reason):
    done = run(network / "bundle" / "gq-run", *words)
    assert done.returncode == 2
    assert reason in done.stderr.splitlines()[0]


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.zeros((2, 3, 10)), "input x of main has the dtype float64, give float32"),
        (np.zeros((2, 10), np.float32), "has the shape [2, 10], give one of 3 dimensions"),
        (np.zeros((2, 3, 11), np.float32), "has the shape [2, 3, 11], give [2, 3, 10]"),
        (np.zeros((2, 41, 10), np.float32), "is 41, it must be at least 1 and at most 40"),
        (np.zeros((2, 3, 10), np.float32, order="F"), "in C order"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(network, tmp_path, array, reason):
    words: list[object] = []
    state = np.zeros((2, 8), np.float32)
    for name, value in {"x": array, "h": state, "c": state}.items():
        np.save(tmp_path / f"{name}.npy", value)
        words += ["--input", f"{name}={tmp_path / name}.npy"]
    done = run(network / "bundle" / "gq-run", "--function", "main", *words)
    assert done.returncode == 2
    assert reason in done.stderr


def header(**changes: object) -> bytes:
    """An .npy file of 2 x 3 x 10 floats whose header says something else."""
    facts = {"descr": "<f4", "fortran_order": False, "shape": (2, 3, 10)} | changes
    text = repr(facts).encode()
    return b"\x93NUMPY\x02\x00" + struct.pack("<I", len(text)) + text + bytes(240)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (header()[:-1], "is cut short"),
        (header()[:40], "is cut short"),
        (header(shape=(2**62, 2**62)), "is cut short"),
        (header(shape=(10**30,)), "is cut short"),
        (header(descr="<f"), "must hold little-endian numbers"),
        (header(descr=[("a", "<f4")]), "must hold little-endian numbers"),
        (b"\x93NUMPY\x02\x00" + b"\xff" * 8, "is cut short"),
    ],
)
def test_damaged_arrays_are_one_sentence(network, tmp_path, content, reason):
    (tmp_path / "x.npy").write_bytes(content)
    words = "--function", "main", "--input", f"x={tmp_path / 'x.npy'}"
    done = run(network / "bundle" / "gq-run", *words)
    assert done.returncode == 2
    assert reason in done.stderr


@pytest.fixture(scope="module")
def small() -> Artefact:
    return build(export(Linear(3, 4).eval(), torch.zeros(2, 4)))


def test_older_bundle_outlives_a_failure(small, tmp_path, monkeypatch):
    place = tmp_path / "bundle"
    place.mkdir()
    (place / "plan.txt").write_text("gq-plan 2\n")  # of an older version

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("gq_tvm.runtime.artefact.folder._swap", full)
    with pytest.raises(Error, match="No space left"):
        deploy.write(small, place)
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
    assert (place / "plan.txt").read_text() == "gq-plan 2\n"


def test_kernels_of_several_threads_answer_as_of_one(tmp_path):
    artefact = build(export(Linear(512, 512).eval(), torch.zeros(64, 512)), threads=2)
    deploy.write(artefact, tmp_path / "bundle")
    x = np.random.default_rng(0).standard_normal((64, 512)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    ((function, described),) = artefact.plan.functions.items()
    name = f"{described.inputs[0].name}={tmp_path / 'x.npy'}"
    words = [tmp_path / "bundle" / "gq-run", "--function", function, "--input", name]
    made = []
    for threads in (1, 2, 3):
        output = tmp_path / f"{threads}.npy"
        done = run(*words, "--output", output, "--threads", threads, "--repeat", 50)
        assert done.returncode == 0, done.stderr
        made.append(np.load(output))
    np.testing.assert_array_equal(made[1], made[0])
    np.testing.assert_array_equal(made[2], made[0])


def test_place_of_something_else_is_kept(small, tmp_path):
    (tmp_path / "mine").write_text("precious")
    with pytest.raises(Error, match="is not a gq-tvm artefact; choose another place"):
        deploy.write(small, tmp_path)
    assert (tmp_path / "mine").read_text() == "precious"
    deploy.write(small, tmp_path / "bundle")
    deploy.write(small, tmp_path / "bundle")  # an older bundle is replaced
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "mine"]
