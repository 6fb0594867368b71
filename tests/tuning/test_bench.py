"""Real kernels, built, checked and timed."""

from __future__ import annotations

import signal
import time

import pytest
import torch
from codebook_models import linear_program

from gq_tvm import compile as compile_command
from gq_tvm import inspect as inspect_command
from gq_tvm import targets, tune
from gq_tvm.errors import Error
from gq_tvm.schedules import FAMILIES, Product, Schedule
from gq_tvm.schedules.database import read
from gq_tvm.schedules.epilogue import Epilogue
from gq_tvm.schedules.lookup_f32 import LookupFloatEngine
from gq_tvm.tuning import Task
from gq_tvm.tuning.bench import Bench
from gq_tvm.tuning.worker import Worker

NATIVE = targets.get("native")


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench()


@pytest.mark.parametrize("one", [one for one in FAMILIES if one.name != "scalar"])
def test_every_family_passes_its_check(bench, one):
    activation = getattr(one, "activation", "int8")
    product = Product(148, 37, 1, activation, None)
    if not one.supports(NATIVE, product):
        pytest.skip(f"{NATIVE.name} has no {one.name}")
    task = Task(NATIVE.name, one.name, product)
    bench.build(task, task.default)
    measured = bench.time(task, task.default)
    assert measured.hot > 0
    assert measured.cold is not None
    assert measured.cold > 0


@pytest.mark.parametrize("activation", ["int8", "fp32"])
def test_a_kernel_that_computes_something_else_is_rejected(bench, monkeypatch, activation):
    name = {"int8": "lookup", "fp32": "lookup_f32"}[activation]
    name = name if NATIVE.instruction_set != "scalar" else "scalar"
    task = Task(NATIVE.name, name, Product(20, 12, 4, activation, 3))
    right = Task.kernel

    def wrong(self, schedule):
        from gq_tvm.schedules import family

        return family(self.family).linear(NATIVE, self.product, schedule, Epilogue("relu"))

    monkeypatch.setattr(Task, "kernel", wrong)
    with pytest.raises(Error, match="wrong result"):
        bench.build(task, task.default)
    monkeypatch.setattr(Task, "kernel", right)
    bench.build(task, task.default)


class Crash:
    """An argument that ends the process it is sent to."""

    def __reduce__(self):
        return signal.raise_signal, (signal.SIGSEGV,)


class Hang:
    """An argument that holds the process it is sent to up."""

    def __reduce__(self):
        return time.sleep, (60,)


@pytest.mark.slow
def test_a_worker_survives_kernels_that_crash_or_hang():
    worker = Worker()
    task = Task(NATIVE.name, "lookup", Product(20, 12, 4, "int8", 3))
    try:
        with pytest.raises(Error, match=r"crashed \(SIGSEGV\)"):
            worker.call("build", Crash(), task.default)
        with pytest.raises(Error, match=r"took longer than 0\.2 s"):
            worker.call("build", Hang(), task.default, seconds=0.2)
        worker.call("build", task, task.default)
        assert worker.call("time", task, task.default).hot > 0
        with pytest.raises(Error, match="has no attribute"):
            worker.call("build", task, "nonsense")
    finally:
        worker.close()


@pytest.mark.slow
def test_from_tuning_to_the_artefact(tmp_path, monkeypatch, capsys):
    space = [Schedule(), Schedule(vectors=2), Schedule(vectors=8)]
    monkeypatch.setattr(LookupFloatEngine, "space", classmethod(lambda *_: list(space)))
    model, database = tmp_path / "model.pt2", tmp_path / "mine.json"
    torch.export.save(linear_program(), model)
    common = ["--database", str(database), "--target", NATIVE.name]
    assert tune.main([str(model), "--trials", "3", "--jobs", "1", *common]) == 0
    assert "3 trials" in capsys.readouterr().err
    (entry,) = read(database, NATIVE)
    out = tmp_path / "model.gq"
    assert compile_command.main([str(model), "-o", str(out), "--tune", "3", *common]) == 0
    assert "tuned before (3 trials)" in capsys.readouterr().err
    inspect_command.main([str(out)])
    text = capsys.readouterr().out
    assert "measured" in text
    assert entry.schedule in text
    assert tune.main([str(out), "--trials", "3", "--database", str(database)]) == 0
    assert "tuned before (3 trials)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["nothing.pt2"], "nothing.pt2 does not exist"),
        (["--common-shapes", "--target", "cortex-a76"], "cannot run cortex-a76; tune on a board"),
        (["--common-shapes", "--kernel", "scalar"], "nothing to tune: no kernel scalar"),
        (["--common-shapes", "--rpc", "127.0.0.1:1"], "no TVM RPC server answers at 127.0.0.1:1"),
    ],
)
def test_refusals(argv, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(LookupFloatEngine, "space", classmethod(lambda *_: [Schedule()] * 2))
    monkeypatch.setattr("gq_tvm.schedules.lookup.LookupEngine.space",
                        classmethod(lambda *_: [Schedule(), Schedule(vectors=2)]))  # fmt: skip
    assert tune.main(argv) == 2
    assert message in capsys.readouterr().err


def test_usage(capsys):
    for argv in ([], ["model.pt2", "--common-shapes"], ["model.pt2", "--trials", "0"]):
        assert tune.main(argv) == 2


def test_an_emulated_board_is_refused(emulated):
    board = emulated("cortex-a76")
    assert board.probed.machine == "aarch64"
    with pytest.raises(Error, match="is an emulator, whose times say nothing about a board"):
        tune.check_clock(board)


def test_products_of_an_artefact():
    from codebook_models import everything

    from gq_tvm.build import build, products

    program = everything("int8")[1]
    manifest = build(program, "native").manifest
    assert sorted(map(str, tune.products_of(manifest))) == sorted(map(str, products(program)))
