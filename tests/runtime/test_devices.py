from __future__ import annotations

import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from gq_tvm import Error
from gq_tvm.runtime.devices import connection
from gq_tvm.runtime.devices.device import DeviceLost, LocalDevice, RpcDevice, connect
from gq_tvm.runtime.memory import ALIGNMENT
from gq_tvm.targets import native


def aligned(count: int, offset: int = 0) -> np.ndarray:
    """Return zeros, float32 [count], `offset` bytes past an aligned address."""
    memory = np.zeros(4 * count + 2 * ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT + offset
    return memory[start : start + 4 * count].view(np.float32)


def test_aligned_memory_is_shared():
    array = aligned(32).reshape(4, 8)
    tensor = LocalDevice().tensor(array)
    array[1, 2] = 7
    assert tensor.numpy()[1, 2] == 7


def test_tensor_keeps_the_memory_alive():
    tensor = LocalDevice().tensor(aligned(1 << 16))
    assert not tensor.numpy().any()


@pytest.mark.parametrize(
    "array",
    [
        aligned(32, offset=4),
        aligned(64)[::2],
        np.asfortranarray(np.arange(12, dtype=np.float32).reshape(3, 4)),
        np.zeros((0, 4), np.float32),
    ],
    ids=["unaligned", "strided", "column-major", "empty"],
)
def test_other_memory_is_copied(array: np.ndarray):
    tensor = LocalDevice().tensor(array)
    assert tuple(tensor.shape) == array.shape
    np.testing.assert_array_equal(tensor.numpy(), array)
    if array.size:
        array[0] += 1
        assert not np.array_equal(tensor.numpy(), array)


@pytest.mark.parametrize("mode", ["r", "c"])
def test_mapped_file_is_shared_not_copied(tmp_path: Path, mode):
    path = tmp_path / "weights"
    np.arange(4096, dtype=np.float32).tofile(path)
    mapped = np.memmap(path, np.float32, mode, offset=ALIGNMENT)
    tensor = LocalDevice().tensor(mapped)
    assert np.from_dlpack(tensor).ctypes.data == mapped.ctypes.data
    del mapped
    assert tensor.numpy()[0] == ALIGNMENT // 4
    assert path.stat().st_size == 4 * 4096


def test_local_device_is_this_machine():
    device = connect(None)
    assert isinstance(device, LocalDevice)
    assert device.features == native.features()


def test_local_library_that_is_none_is_refused(tmp_path: Path):
    path = tmp_path / "junk.so"
    path.write_bytes(b"junk")
    with pytest.raises(Error, match=r"cannot load .*junk\.so"):
        LocalDevice().load_module(path)


@pytest.mark.parametrize("address", ["9090", ":9090", "board", "board:", "board:x", "board:70000"])
def test_malformed_address_is_refused(address: str):
    with pytest.raises(Error, match="is not HOST:PORT"):
        connect(address)


def test_nobody_there_is_one_error():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(Error, match=f"no TVM RPC server answers at 127.0.0.1:{port}"):
        RpcDevice("127.0.0.1", port)


def test_a_server_that_never_greets_is_given_up(monkeypatch):
    monkeypatch.setattr(connection, "_HANDSHAKE", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(DeviceLost, match=r"does not greet within 0\.2 s: it hangs or serves"):
            RpcDevice("127.0.0.1", port)


@pytest.mark.slow
def test_the_rpc_server_of_tvm_serves_as_well():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tvm.exec.rpc_server", "--host=127.0.0.1"]
    command += [f"--port={port}", f"--port-end={port + 1}"]
    server = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        for _ in range(600):
            try:
                device = connect(f"127.0.0.1:{port}")
                break
            except Error:
                time.sleep(0.1)
        else:
            pytest.fail("the server of TVM did not start")
        assert device.machine == LocalDevice().machine
        assert device.features == native.features()
        device.close()
    finally:
        server.kill()
        server.wait()
