from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tvm
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from gq_tvm import Error
from gq_tvm.runtime.devices import emulator
from gq_tvm.runtime.devices.device import DeviceLost, RpcDevice
from gq_tvm.runtime.devices.emulator import EmulatedDevice
from gq_tvm.toolchain import debian
from gq_tvm.toolchain.linker import linker

TRIPLE = "aarch64-linux-gnu"


def export(module: tvm.IRModule, cpu: str, path: Path) -> Path:
    target = tvm.target.Target({"kind": "llvm", "mtriple": TRIPLE, "mcpu": cpu})
    tvm.compile(module, target=target).export_library(str(path), fcompile=linker(TRIPLE))
    return path


def dot_product() -> tvm.IRModule:
    """Build a kernel of one SDOT instruction: a, b int8 [16], sums int32 [4]."""
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("dot")
        T.func_attr({"global_symbol": "dot"})
        a = T.arg("a", T.buffer((16,), "int8"))
        b = T.arg("b", T.buffer((16,), "int8"))
        sums = T.arg("sums", T.buffer((4,), "int32"))
        instruction = "llvm.aarch64.neon.sdot.v4i32.v16i8"
        zero = T.broadcast(T.int32(0), 4)
        of = [buffer[T.ramp(0, 1, 16)] for buffer in (a, b)]
        found = T.call_llvm_pure_intrin("int32x4", instruction, zero, *of)
        T.buffer_store(sums, found, [T.ramp(0, 1, 4)])
    return tvm.IRModule({"dot": builder.get()})


@pytest.mark.emulated
@pytest.mark.parametrize(
    ("cpu", "features"),
    [
        ("cortex-a53", {"neon"}),
        ("cortex-a72", {"neon"}),
        ("cortex-a76", {"neon", "dotprod", "fp16"}),
        ("max", {"neon", "dotprod", "fp16", "i8mm"}),
    ],
)
def test_cpu_models_have_their_features(emulated, cpu: str, features: set[str]):
    device = emulated(cpu)
    assert device.machine == "aarch64"
    assert device.features == features


@pytest.mark.emulated
def test_instruction_the_cpu_lacks_is_one_error_and_the_device_goes_on(emulated, tmp_path: Path):
    path = export(dot_product(), "cortex-a76", tmp_path / "dot.so")
    ones = np.ones(16, np.int8)

    def run(device) -> np.ndarray:
        sums = device.tensor(np.zeros(4, np.int32))
        a, b = device.tensor(ones), device.tensor(2 * ones)
        module = device.load_module(path)
        with device.guard():
            module["dot"](a, b, sums)
            return sums.numpy()

    assert run(emulated("cortex-a76")).tolist() == [8, 8, 8, 8]
    device = emulated("cortex-a72")
    with pytest.raises(Error, match=r"emulated cortex-a72 was lost.*SIGILL.*cortex-a72 lacks"):
        run(device)
    with pytest.raises(Error, match="was lost"):  # and it stays lost
        device.tensor(ones)
    assert emulated("cortex-a72").tensor(ones).numpy().tolist() == ones.tolist()


@pytest.mark.emulated
def test_errors_of_kernels_do_not_lose_the_device(emulated, tmp_path: Path):
    device = emulated("cortex-a76")
    module = device.load_module(export(dot_product(), "cortex-a76", tmp_path / "dot.so"))
    ones, sums = np.ones(16, np.int8), device.tensor(np.zeros(4, np.int32))
    with pytest.raises(Exception, match=r"(?i)shape|mismatch|dim"):
        module["dot"](device.tensor(ones[:15]), device.tensor(ones), sums)
    module["dot"](device.tensor(ones), device.tensor(ones), sums)
    assert sums.numpy().tolist() == [4, 4, 4, 4]


@pytest.mark.emulated
def test_library_that_is_none_is_refused(emulated, tmp_path: Path):
    path = tmp_path / "junk.so"
    path.write_bytes(b"junk")
    device = emulated("cortex-a72")
    with pytest.raises(Error, match=r"the emulated cortex-a72 cannot load .*junk\.so"):
        device.load_module(path)
    with pytest.raises(Error, match=r"absent\.so"):
        device.load_module(tmp_path / "absent.so")
    assert device.machine == "aarch64"


@pytest.mark.emulated
def test_server_that_died_is_started_again(emulated):
    emulated()  # skips where there is no emulator
    with EmulatedDevice("cortex-a53") as device:
        first = device.connect()
        os.kill(device._process.pid, signal.SIGKILL)
        device._process.wait()
        with pytest.raises(Error, match="lost"):
            first.tensor(np.zeros(4))
        assert device.connect().features == {"neon"}


@pytest.mark.emulated
def test_a_board_that_hangs_is_given_up(emulated):
    emulated()
    with EmulatedDevice("cortex-a53") as device:
        connection = RpcDevice(device.host, device.port, silence=0.5)
        tensor = connection.tensor(np.zeros(4))
        assert connection.tensor(np.ones(4)).numpy().all()
        *_, session = children(device._process.pid)
        os.kill(session, signal.SIGSTOP)
        with pytest.raises(DeviceLost, match=r"has not answered for 0\.5 s and was given up"):
            connection.tensor(np.zeros(4))
        assert not connection.alive
        del tensor  # waits for no answer any more
        assert device.connect().features == {"neon"}


def endless() -> tvm.IRModule:
    """Build a kernel that sleeps for years, whatever signals come."""
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("endless")
        T.func_attr({"global_symbol": "endless"})
        x = T.arg("x", T.buffer((1,), "int32"))
        with T.serial(0, 1_000_000):
            T.buffer_store(x, T.call_extern("int32", "sleep", 1000), [0])
    return tvm.IRModule({"endless": builder.get()})


@pytest.mark.emulated
def test_a_session_ends_with_its_client_even_in_a_kernel_that_does_not(emulated, tmp_path: Path):
    emulated()
    path = export(endless(), "cortex-a53", tmp_path / "endless.so")
    with EmulatedDevice("cortex-a53") as device:
        connection = RpcDevice(device.host, device.port, silence=0.5)
        module = connection.load_module(path)
        x = connection.tensor(np.zeros(1, np.int32))
        with pytest.raises(DeviceLost, match="has not answered"), connection.guard():
            module["endless"](x)
        for _ in range(100):
            if not children(device._process.pid):
                break
            time.sleep(0.1)
        assert children(device._process.pid) == []


def children(pid: int) -> list[int]:
    return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


@pytest.mark.emulated
def test_nothing_is_left_when_the_context_ends(emulated):
    emulated()
    with contextlib.suppress(ZeroDivisionError), EmulatedDevice("cortex-a53") as device:
        connection = device.connect()
        connection.tensor(np.zeros(4))
        raise ZeroDivisionError
    assert device._process.poll() == 0
    with pytest.raises(Error, match="lost"):
        connection.tensor(np.zeros(4))
    with pytest.raises(Error, match="was closed"):
        device.connect()


@pytest.mark.emulated
def test_server_leaves_with_a_process_that_is_killed(emulated):
    emulated()
    program = (
        "import time\n"
        "from gq_tvm.runtime.devices.emulator import EmulatedDevice\n"
        "device = EmulatedDevice('cortex-a53')\n"
        "print(device._process.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    server = int(parent.stdout.readline())
    assert Path(f"/proc/{server}/cmdline").read_bytes()
    parent.kill()
    parent.wait()
    parent.stdout.close()
    for _ in range(200):
        if not alive(server):
            break
        time.sleep(0.1)
    assert not alive(server)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.emulated
def test_second_setup_does_nothing(emulated):
    emulated()
    said: list[str] = []
    assert emulator.setup(progress=said.append).complete()
    assert said == []


def test_missing_setup_is_one_line_that_says_what_to_do(tmp_path: Path):
    able, reason = emulator.available(tmp_path)
    assert not able
    assert "\n" not in reason
    assert emulator.SETUP_COMMAND in reason or "Debian" in reason


def test_setup_without_debian_tools_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not debian.available()[0]
    with pytest.raises(Error, match="apt-get, apt-cache, dpkg, dpkg-deb not found"):
        emulator.setup(tmp_path / "cache", progress=str)
    assert [path.name for path in (tmp_path / "cache").iterdir() if path.is_dir()] == []


def test_unknown_cpu_is_refused():
    with pytest.raises(Error, match="no CPU 'z80': choose one of cortex-a53"):
        EmulatedDevice("z80")
