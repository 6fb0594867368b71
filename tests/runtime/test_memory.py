"""A call in the steady state takes no memory from the system, and keeps none."""

from __future__ import annotations

import ctypes
import gc
import itertools
import os
import re
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.codebook_models import Linear, Lstm, compiled, export, frames
from torch import nn
from torch.export import Dim

pytestmark = pytest.mark.export

CALLS = 1000
PAGE = resource.getpagesize()  # what TVM allocates at least


class _Mallinfo(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks"),
            *("fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    ]


def _in_use() -> int:
    """Bytes that malloc has handed out and not got back."""
    mallinfo = ctypes.CDLL(None).mallinfo2
    mallinfo.restype = _Mallinfo
    info = mallinfo()
    return info.uordblks + info.hblkhd


def _resident() -> int:
    """Bytes of this process in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


#: Run with the C library's malloc under trace: bind, then write down what calls allocate.
_TRACED = """
import ctypes, gc, sys
import numpy as np
import gq_tvm

net = gq_tvm.load(sys.argv[1])["main"]

def inputs(length):
    for tensor in net.inputs:
        yield np.ones([length if isinstance(s, str) else s for s in tensor.shape], tensor.dtype)

bound = [net.bind(*inputs(length)) for length in (4, 1, 9, 32)]
library = ctypes.CDLL("libc_malloc_debug.so.0")
find = ctypes.CDLL(None).dlvsym
find.restype, find.argtypes = ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_char_p]
start, stop = (  # old versions of these names: dlsym would find empty functions of the new ones
    ctypes.CFUNCTYPE(None)(find(library._handle, name, b"GLIBC_2.2.5"))
    for name in (b"mtrace", b"muntrace")
)
for i in range(40):
    bound[i % 4]()
gc.collect()
start()
for i in range(200):
    bound[i % 4]()
stop()
"""


def assert_steady(call: Callable[[], object]) -> None:
    """Allow no call to keep memory, nor to be given any by the system."""
    for _ in range(50):
        call()
    gc.collect()
    kept, pages = _in_use(), resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(CALLS):
        call()
    gc.collect()
    pages = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - pages
    assert (_in_use() - kept) / CALLS < 32, "bytes that a call keeps"
    assert pages / CALLS < 0.5, "pages that a call is given"


def allocations(model: Path, folder: Path) -> list[int]:
    """Sizes of what 200 bound calls of a model allocate, however briefly."""
    script, trace = folder / "traced.py", folder / "trace"
    script.write_text(_TRACED)
    environment = {"LD_PRELOAD": "libc_malloc_debug.so.0", "MALLOC_TRACE": str(trace)}
    command = [sys.executable, str(script), str(model)]
    subprocess.run(command, env={**os.environ, **environment}, check=True)
    # "@ place + address size" for memory handed out, "- address" for memory given back.
    sizes = re.findall(r" [+>] 0x\w+ (0x\w+)$", trace.read_text(), re.MULTILINE)
    return [int(size, 16) for size in sizes]


class Encoder(nn.Module):
    """What a streaming encoder is made of, at widths whose tensors need whole pages."""

    def __init__(self) -> None:
        super().__init__()
        self.first = Linear(256, 160, activation="int8")
        self.norm = nn.LayerNorm(256)
        self.lstm = Lstm(256, 64, "int8")

    def forward(self, x, h, c):
        return self.lstm(self.norm(self.first(x).relu()), h, c)


@pytest.mark.parametrize("most", [None, 64])
def test_a_model_of_any_length(tmp_path, most):
    example = torch.randn(1, 3, 160), torch.zeros(1, 64), torch.zeros(1, 64)
    time = frames(1, most) if most else Dim("T", min=1)
    net = compiled(export(Encoder(), *example, dynamic=({1: time}, None, None)), tmp_path)
    rng = np.random.default_rng(0)
    state = np.zeros((2, 1, 64), np.float32)
    lengths = [rng.standard_normal((1, n, 160)).astype(np.float32) for n in (4, 1, 9, 32)]
    calls = itertools.cycle([net.bind(x, *state) for x in lengths])
    assert_steady(lambda: next(calls)())
    sizes = allocations(tmp_path / "model.gq", tmp_path)
    assert len(sizes) > 200  # tensors have handles
    assert sum(size >= PAGE for size in sizes) < 10  # and memory that was there before


def test_a_kernel_with_workspace(tmp_path):
    """Many rows: what a kernel works on does not fit the stack."""
    model = nn.Sequential(Linear(64, 4096, activation="int8"))
    net = compiled(export(model, torch.randn(16, 4096)), tmp_path)
    assert_steady(net.bind(np.ones((16, 4096), np.float32)))


def test_lengths_without_end(tmp_path):
    """TVM would keep memory for every length it has met: here 200 MB."""
    model = nn.Sequential(Linear(2048, 8, activation="int8"), Linear(8, 2048, activation="int8"))
    program = export(model, torch.randn(5, 8), dynamic=({0: Dim("T", min=1)},))
    net = compiled(program, tmp_path)
    lengths = range(1, 221)
    net(np.ones((lengths[-1], 8), np.float32))
    before = _resident()
    for length in lengths:
        net(np.ones((length, 8), np.float32))
    for length in lengths:
        net.bind(np.ones((length, 8), np.float32))()
    assert _resident() - before < 120e6
