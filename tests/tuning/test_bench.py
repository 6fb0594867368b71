"""Real kernels, built, checked and timed."""

from __future__ import annotations

import signal
import time
from dataclasses import replace

import pytest
import torch
from helpers.codebook_models import linear_program
from torch import nn

from gq_tvm import compile as compile_command
from gq_tvm import inspect as inspect_command
from gq_tvm import targets, tune
from gq_tvm.errors import Error
from gq_tvm.ops.checks import ACTIVATIONS
from gq_tvm.schedules import FAMILIES, Product, Schedule, families_for
from gq_tvm.schedules.choosing.database import read
from gq_tvm.schedules.cpu.engines.lookup_f32 import LookupFloatEngine
from gq_tvm.schedules.epilogue import Epilogue
from gq_tvm.tuning.bench import Bench
from gq_tvm.tuning.task import Task
from gq_tvm.tuning.worker import Worker

NATIVE = targets.get("native")


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench()


@pytest.mark.parametrize("one", [one for one in FAMILIES if one.name != "scalar"])
def test_every_family_passes_its_check(bench, one):
    products = [Product(148, 37, 1, activation, None) for activation in ACTIVATIONS]
    products = [product for product in products if product.activation == one.arithmetic(product)]
    able = [product for product in products if one.supports(NATIVE, product)]
    if not able:
        pytest.skip(f"{NATIVE.name} has no {one.name}")
    task = Task(NATIVE.name, one.name, able[0])
    bench.build(task, task.default)
    measured = bench.time(task, task.default)
    assert measured.hot > 0
    assert measured.cold is not None
    assert measured.cold > 0


@pytest.mark.parametrize("activation", ["int8", "fp32"])
def test_every_form_of_a_weight_passes_its_check(bench, activation):
    plain = Product(20, 70, 4, activation, 3)
    for product in (
        replace(plain, group=16, zero=True),
        replace(plain, group=32, zero=True, scale_type="float16", zero_type="uint8"),
        replace(plain, tables=4),
        replace(plain, group=32, tables=0),
    ):
        task = Task(NATIVE.name, families_for(NATIVE, product)[0].name, product)
        assert Task.parse(task.key) == task
        bench.build(task, task.default)


@pytest.mark.parametrize("activation", ["int8", "fp32"])
def test_a_kernel_that_computes_something_else_is_rejected(bench, monkeypatch, activation):
    name = {"int8": "lookup", "fp32": "lookup_f32"}[activation]
    name = name if NATIVE.instruction_set != "scalar" else "scalar"
    task = Task(NATIVE.name, name, Product(20, 12, 4, activation, 3))
    right = Task.kernel

    def wrong(self, schedule):
        choice = self.run(schedule)
        return choice.family.linear(choice, Epilogue("relu"))

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
        (["notes.gq"], "notes.gq is a text file, not a .pt2 file"),
        (["--common-shapes", "--target", "cortex-a76"], "cannot run cortex-a76; tune on a board"),
        (["--common-shapes", "--kernel", "scalar"], "nothing to tune: no kernel scalar"),
        (["--common-shapes", "--rpc", "127.0.0.1:1"], "no TVM RPC server answers at 127.0.0.1:1"),
    ],
)
def test_refusals(argv, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.gq").write_text("told by its content, not by its name")
    monkeypatch.setattr(LookupFloatEngine, "space", classmethod(lambda *_: [Schedule()] * 2))
    monkeypatch.setattr("gq_tvm.schedules.cpu.engines.lookup.LookupEngine.space",
                        classmethod(lambda *_: [Schedule(), Schedule(vectors=2)]))  # fmt: skip
    assert tune.main(argv) == 2
    assert message in capsys.readouterr().err


def test_usage(capsys):
    for argv, message in (
        ([], "give either a model or --common-shapes"),
        (["model.pt2", "--common-shapes"], "give either a model or --common-shapes"),
        (["model.pt2", "--trials", "0"], "--trials: '0' is no whole number of 1 or more"),
        (["model.pt2", "--jobs", "two"], "--jobs: 'two' is no whole number of 1 or more"),
        (["--common-shapes", "--kernel", "magic"], "unknown kernel 'magic'"),
    ):
        assert tune.main(argv) == 2
        assert message in capsys.readouterr().err


@pytest.mark.emulated
def test_an_emulated_board_is_refused(emulated):
    board = emulated("cortex-a76")
    assert board.probed.machine == "aarch64"
    with pytest.raises(Error, match="is an emulator, whose times say nothing about a board"):
        tune.check_clock(board)


class EveryLayer(nn.Module):
    """Each kind of layer that can be quantised, a gated one among them."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.linear = nn.Embedding(5, 6), nn.Linear(6, 8)
        self.gru, self.lstm = nn.GRU(4, 3, batch_first=True), nn.LSTM(3, 5, batch_first=True)
        self.conv = nn.Conv1d(5, 6, 3)
        self.depthwise, self.grouped = nn.Conv1d(6, 6, 3, groups=6), nn.Conv1d(6, 4, 3, groups=2)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = nn.functional.glu(self.linear(self.embedding(ids)))
        x = self.lstm(self.gru(x)[0])[0].transpose(1, 2)
        return self.grouped(self.depthwise(self.conv(x)))


@pytest.mark.export
def test_an_artefact_and_its_model_have_the_same_products(tmp_path):
    from gq_tvm import quantize
    from gq_tvm.build import build, products
    from gq_tvm.runtime.artefact.folder import read

    model = quantize.compress(EveryLayer().eval(), bits=2)
    program = torch.export.export(model, (torch.zeros(1, 9, dtype=torch.int64),))
    found = products(program)
    facts = [(one.n, one.k, one.rows, one.gates, one.glu) for one in found]
    assert facts == [
        (8, 6, 9, 0, True),
        *((9, 4, 9, 3, False), (9, 3, 1, 3, False)),
        *((20, 3, 9, 4, False), (20, 5, 1, 4, False)),
        (6, 15, 7, 0, False),
    ]
    build(program, "x86-64", kernel="scalar").save(tmp_path / "model.gq")
    _, plan = read(tmp_path / "model.gq")
    assert tune.products_of(plan) == found
