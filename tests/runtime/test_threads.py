"""How many threads a call runs on: from the artefact, at loading, for one call."""

from __future__ import annotations

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tvm
from helpers.codebook_models import compiled, everything, linear_program

import gq_tvm
from gq_tvm.build import build
from gq_tvm.errors import Error
from gq_tvm.schedules.choosing import threads

pytestmark = pytest.mark.export

CPUS = len(os.sched_getaffinity(0))
pool_threads = tvm.get_global_func("runtime.NumThreads")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Artefacts of one model: for one thread, for two, for two on a board."""
    folder = tmp_path_factory.mktemp("threads")
    program = linear_program(200, 40, activation="int8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threads, "_LEAST", 1)  # as if this were a large layer
        build(program, threads=2).save(folder / "two.gq")
        build(program, "cortex-a76", threads=2).save(folder / "board.gq")
    build(program).save(folder / "one.gq")
    return folder


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((2, 3, 40)).astype(np.float32)


@pytest.fixture(scope="module")
def wanted(folder, x) -> np.ndarray:
    return gq_tvm.load(folder / "one.gq")(x)


def test_the_artefact_says_how_many(folder, x, wanted):
    net = gq_tvm.load(folder / "two.gq")
    assert net.manifest.threads == 2
    np.testing.assert_array_equal(net(x), wanted)
    assert pool_threads() == min(2, CPUS)


@pytest.mark.parametrize("count", [1, 2, 3, 1000])
def test_any_number_computes_the_same(folder, x, wanted, count):
    """More than there are CPUs are as many as there are."""
    net = gq_tvm.load(folder / "two.gq")
    loaded = gq_tvm.load(folder / "two.gq", threads=count)
    bound = net.bind(x, threads=count)
    for call in (lambda: net(x, threads=count), lambda: loaded["main"](x), bound):
        net(x, threads=2 if count == 1 else 1)
        np.testing.assert_array_equal(call(), wanted)
        assert pool_threads() == min(count, CPUS)


def test_a_timer_takes_the_number_of_its_model(folder, x):
    net = gq_tvm.load(folder / "two.gq", threads=2)
    net(x, threads=1)
    net["main"].timer([x])(1)
    assert pool_threads() == min(2, CPUS)
    net(x, threads=1)
    layer = net.layers[0]
    fields = [*layer.call["arguments"], *layer.call["outputs"]]
    arrays = [a if isinstance(a, str) else np.zeros((6, a[-1]), a[0]) for a in fields]
    net.kernels.timer(layer.call["symbol"], arrays)(1)
    assert pool_threads() == min(2, CPUS)


@pytest.mark.parametrize("count", [0, -1, 1.5, "2", True])
def test_what_is_no_number_of_threads_is_refused(folder, x, count):
    net = gq_tvm.load(folder / "two.gq")
    for refused in (
        lambda: net(x, threads=count),
        lambda: net.bind(x, threads=count),
        lambda: gq_tvm.load(folder / "two.gq", threads=count),
    ):
        with pytest.raises(Error, match="threads must be a whole number from 1 up, got"):
            refused()


def test_code_for_one_thread_runs_on_one(folder, x, wanted):
    net = gq_tvm.load(folder / "one.gq", threads=1)
    np.testing.assert_array_equal(net(x, threads=1), wanted)
    with pytest.raises(Error, match=r"function main was compiled for one .* --threads 2"):
        net(x, threads=2)
    with pytest.raises(Error, match=r"one\.gq was compiled for one thread and cannot run on 3"):
        gq_tvm.load(folder / "one.gq", threads=3)


def test_building_for_no_thread_is_refused():
    with pytest.raises(Error, match="threads must be a whole number from 1 up, got 0"):
        build(linear_program(), threads=0)


def test_models_and_callers_with_numbers_of_their_own(folder, x, wanted):
    nets = [gq_tvm.load(folder / f"{name}.gq") for name in ("one", "two", "two")]

    def call(i: int) -> bool:
        net = nets[i % 3]
        y = net(x) if i % 3 == 0 else net(x, threads=1 + i % 2)
        return np.array_equal(y, wanted)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(call, range(200)))


def test_the_caller_may_run_where_it_could_before(folder, x):
    """TVM by itself binds the thread that calls to half of the CPUs for good."""
    net = gq_tvm.load(folder / "two.gq")
    seen = []

    def call() -> None:
        for cpus in ({min(os.sched_getaffinity(0))}, os.sched_getaffinity(0)):
            os.sched_setaffinity(0, cpus)
            for count in (2, 1, 2):
                net(x, threads=count)
                seen.append(os.sched_getaffinity(0) == cpus)

    caller = threading.Thread(target=call)
    caller.start()
    caller.join()
    assert seen == [True] * 6


def test_a_forked_process_computes_alone(folder, x, wanted):
    """The workers stay behind: waiting for them would take for ever."""
    net = gq_tvm.load(folder / "two.gq")
    net(x)
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        os._exit(0 if np.array_equal(net(x), wanted) and pool_threads() == 1 else 1)
    assert os.waitpid(child, 0)[1] == 0
    np.testing.assert_array_equal(net(x), wanted)


@pytest.mark.emulated
def test_a_board_has_threads_as_well(folder, x, wanted, emulated):
    device = emulated("cortex-a76")
    net = gq_tvm.load(folder / "board.gq", device)
    for count in (2, 1, 9):
        np.testing.assert_array_equal(net(x, threads=count), wanted)
        if count < 9:
            assert device.session.get_function("runtime.NumThreads")() in (count, 1)


def test_a_whole_model(tmp_path, monkeypatch):
    monkeypatch.setattr(threads, "_LEAST", 1)
    program = everything("int8")[1]
    one = compiled(program, tmp_path)
    build(program, threads=2).save(tmp_path / "two.gq")
    two = gq_tvm.load(tmp_path / "two.gq")
    ids, state = np.arange(8)[None] % 11, np.ones((2, 1, 8), np.float32)
    for got, wanted in zip(two(ids, *state), one(ids, *state), strict=True):
        np.testing.assert_array_equal(got, wanted)
