"""The verify command, and every command that takes --rpc: on a board, and when it goes away."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.codebook_models import Linear as CodebookLinear
from helpers.codebook_models import export, linear_program

import gq_tvm
from gq_tvm import compile as compile_command
from gq_tvm import profile, tune, verify
from gq_tvm.runtime import profiling
from gq_tvm.runtime.devices.emulator import EmulatedDevice
from gq_tvm.verification import bound as verification

pytestmark = pytest.mark.export


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("verify")
    torch.export.save(linear_program(activation="int8"), folder / "model.pt2")
    torch.export.save(linear_program(activation="int8", seed=7), folder / "other.pt2")
    plain = torch.nn.Sequential(CodebookLinear(6, 12))
    torch.export.save(export(plain, torch.randn(2, 12)), folder / "wider.pt2")
    for where in ("native", "cortex-a53"):
        gq_tvm.build(folder / "model.pt2", target=where).save(folder / f"{where}.gq")
    return folder


@pytest.fixture
def board(emulated) -> Iterator[EmulatedDevice]:
    """An emulated Cortex-A53 of a test's own, to be killed."""
    emulated()  # skips where there is no emulator
    with EmulatedDevice("cortex-a53") as device:
        yield device


def run(folder: Path, *words: str) -> int:
    return verify.main([str(folder / word) if "." in word else word for word in words])


def test_an_artefact_is_compared_with_its_model(folder, capsys):
    np.savez(folder / "inputs.npz", input=np.ones((2, 5, 10), np.float32))
    assert run(folder, "model.pt2", "native.gq", "--inputs", "inputs.npz") == 0
    assert "main: passed with 4 random inputs and 1 given: max abs err" in capsys.readouterr().out
    assert run(folder, "other.pt2", "native.gq") == 1
    written = capsys.readouterr()
    assert "main: failed with 4 random inputs: max abs error" in written.out
    assert "verification failed: main differs from PyTorch by" in written.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("nothing.pt2", "native.gq"), "nothing.pt2 does not exist"),
        (("model.pt2", "nothing.gq"), "nothing.gq does not exist; give the folder"),
        (("model.pt2", "model.pt2"), "model.pt2 is no artefact; compile it first"),
        (("model.pt2", "native.gq", "--inputs", "nothing.npz"), "nothing.npz does not exist"),
        (("model.pt2", "native.gq", "--inputs", "model.pt2"), "has the inputs of no function"),
        (("model.pt2", "native.gq", "--threads", "2"), "compiled for one thread"),
        (("model.pt2", "cortex-a53.gq", "--rpc", "nowhere"), "'nowhere' is not HOST:PORT"),
        (("model.pt2",), "the following arguments are required: DIR"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(folder, words, message, capsys):
    assert run(folder, *words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


@pytest.mark.emulated
def test_commands_run_on_a_board(folder, board, capsys):
    at = ["--rpc", board.address]
    assert run(folder, "model.pt2", "cortex-a53.gq") == 0  # an emulator of its own
    assert "main on the emulated cortex-a53: passed with 4" in capsys.readouterr().out
    assert verify.main([str(folder / "model.pt2"), str(folder / "cortex-a53.gq"), *at]) == 0
    compiling = [str(folder / "model.pt2"), "-o", str(folder / "again.gq"), "--verify", *at]
    assert compile_command.main([*compiling, "--target", "cortex-a53"]) == 0
    assert capsys.readouterr().out.count(f"main on the device at {board.address}: passed") == 2
    assert profile.main([str(folder / "cortex-a53.gq"), "--rounds", "1", *at]) == 0
    assert "times of an emulator" in capsys.readouterr().out
    assert tune.main([str(folder / "cortex-a53.gq"), *at]) == 2
    assert compile_command.main([*compiling, "--target", "cortex-a53", "--tune", "2"]) == 2
    error = capsys.readouterr().err
    assert error.count("is an emulator, whose times say nothing") == 2
    assert "--modelled" in error
    # A feature the board lacks is refused in words, not met as an illegal instruction.
    gq_tvm.build(folder / "model.pt2", target="cortex-a76").save(folder / "cortex-a76.gq")
    assert verify.main([str(folder / "model.pt2"), str(folder / "cortex-a76.gq"), *at]) == 2
    assert (
        "cortex-a76.gq: this CPU lacks dotprod, fp16; compile the model for it"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize("option", [["--rpc", "127.0.0.1:1"], ["--emulate"]])
def test_compile_wants_a_use_for_a_board(folder, option, capsys):
    argv = [str(folder / "model.pt2"), "-o", str(folder / "x.gq"), *option]
    assert compile_command.main(argv) == 2
    assert f"{option[0]} needs --verify" in capsys.readouterr().err


@pytest.mark.emulated
@pytest.mark.parametrize("command", ["verify", "profile"])
def test_a_board_that_dies_ends_the_command_in_a_sentence(
    folder, board, monkeypatch, capsys, command
):
    """Its server is killed in the middle; when it is back, the same command is well again."""
    artefact = str(folder / "cortex-a53.gq")
    argv, main, module, name = {
        "verify": ([str(folder / "model.pt2"), artefact], verify.main, verification, "_outputs"),
        "profile": (
            [artefact, "--rounds", "1"],
            profile.main,
            profiling._TimedFunction,
            "__init__",
        ),
    }[command]
    go_on = getattr(module, name)

    def cut(*arguments):
        result = go_on(*arguments)
        os.kill(board._process.pid, signal.SIGKILL)
        board._process.wait()
        return result

    monkeypatch.setattr(module, name, cut)
    argv = [*argv, "--rpc", board.address]
    assert main(argv) == 2
    error = capsys.readouterr().err
    assert error == (
        f"error: the connection to the device at {board.address} was lost and nobody answers "
        "there now: see that it is up, then start again\n"
    )
    monkeypatch.undo()
    with EmulatedDevice("cortex-a53", port=board.port):
        assert main(argv) == 0
