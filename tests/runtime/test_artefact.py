"""The folder an artefact is: how it is written, what of it is checked before it runs."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.codebook_models import Conv, Embedding, Linear, Lstm, export, linear_program

import gq_tvm
from gq_tvm import inspect
from gq_tvm.build import build
from gq_tvm.core import compiled
from gq_tvm.errors import Error
from gq_tvm.plan import text
from gq_tvm.runtime.artefact import folder as artefact_module
from gq_tvm.runtime.artefact import weights
from gq_tvm.runtime.artefact.folder import KERNELS, MANIFEST, PLAN, README, WEIGHTS, Artefact, read
from gq_tvm.targets import native

pytestmark = pytest.mark.export


@pytest.fixture(scope="module")
def artefact() -> Artefact:
    """Two functions: one of any number of frames, and one that is no more than its kernel."""
    sole = export(Linear(6, 10), torch.zeros(3, 10))
    return build({"main": linear_program(), "sole": sole}, kernel="scalar")


@pytest.fixture(scope="module")
def original(artefact, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("artefact") / "model.gq"
    artefact.save(path)
    return path


@pytest.fixture
def saved(original, tmp_path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "model.gq"))


def change(saved: Path, edit) -> None:
    manifest = json.loads((saved / MANIFEST).read_text())
    edit(manifest)
    (saved / MANIFEST).write_text(json.dumps(manifest))


def replan(saved: Path, **changes: Any) -> None:
    """Let the plan say something else, with a checksum that is right."""
    _, plan = read(saved)
    (saved / PLAN).write_bytes(text.sealed(text.write(dataclasses.replace(plan, **changes))))


CACHES = ("XDG_CACHE_HOME", "GQ_TVM_CACHE")
FILES = [README, KERNELS, MANIFEST, PLAN, WEIGHTS]


def test_it_is_a_folder_of_a_few_files(saved):
    assert sorted(file.name for file in saved.iterdir()) == FILES
    assert gq_tvm.load(saved)(torch.zeros(2, 1, 10)).shape == (2, 1, 6)


def test_what_it_says_of_itself_survives_a_round_trip(saved, artefact):
    manifest, plan = read(saved)
    assert manifest == artefact.manifest
    contents = {"weights": plan.weights, "kernels": plan.kernels}
    assert plan == dataclasses.replace(artefact.plan, **contents)


@pytest.mark.parametrize("name", [PLAN, KERNELS, WEIGHTS])
@pytest.mark.parametrize("harm", ["truncate", "flip", "remove"])
def test_a_damaged_file_is_refused(saved, capsys, name, harm):
    file = saved / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    if harm == "remove":
        file.unlink()
    else:
        file.write_bytes(content[:-1] if harm == "truncate" else content)
    with pytest.raises(Error, match=name):
        gq_tvm.load(saved)
    assert inspect.main([str(saved)]) == 2
    assert re.fullmatch(f"error: .*{name}.*compile the model again\n", capsys.readouterr().err)


DAMAGED = {
    "": r"damaged manifest \(it is no JSON",
    "\xff": r"damaged manifest \(it is no JSON",
    '{"format"': r"damaged manifest \(it is no JSON",
    "[" * 100_000: r"damaged manifest \(it has too many brackets",
    "[" * 65 + "]" * 65: r"damaged manifest \(it has too many brackets",
    '{"a": {"b": 1, "c": 2, "b": 3}}': r'damaged manifest \(it has "b" twice in one table\)',
    "[]": "is not a gq-tvm artefact",
    '{"format": "else"}': "is not a gq-tvm artefact",
    '{"format": "gq-tvm artefact", "version": 2}': r"damaged manifest \(target is missing\)",
    '{"format": "gq-tvm artefact", "version": 1}': "has artefact format 1, this .* reads format 2",
    '{"format": "gq-tvm artefact", "version": 99}': "has artefact format 99",
}


def test_a_damaged_manifest_is_refused(saved):
    for damaged, message in DAMAGED.items():
        (saved / MANIFEST).write_bytes(damaged.encode("latin-1"))
        with pytest.raises(Error, match=message):
            gq_tvm.load(saved)


@pytest.mark.parametrize("name", [MANIFEST, PLAN, KERNELS, WEIGHTS])
def test_what_is_no_file_is_not_read(saved, name):
    """A pipe would keep the reader waiting, a device might have no end."""
    for make in (os.mkfifo, lambda at: at.symlink_to("/dev/zero"), lambda at: at.symlink_to(at)):
        (saved / name).unlink()
        make(saved / name)
        with pytest.raises(Error, match=f"no readable {name}|{name} cannot be read"):
            gq_tvm.load(saved)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("target", None, "target is null, not a text"),
        ("threads", 0, "threads is less than 1"),
        ("threads", 1.5, "threads is 1.5, not a whole number"),
        ("versions", {"tvm": 1}, "versions.tvm is 1, not a text"),
        ("files", {}, "files is unknown"),
    ],
)
def test_an_altered_manifest_is_refused_by_key(saved, key, value, message):
    change(saved, lambda manifest: manifest.update({key: value}))
    with pytest.raises(Error) as refusal:
        gq_tvm.load(saved)
    assert f"damaged manifest ({message})" in str(refusal.value)


def test_kernels_that_are_not_what_the_plan_says_are_refused(saved):
    _, plan = read(saved)
    sole = plan.functions["sole"]
    call = dataclasses.replace(sole.calls[0], kernel="other")
    replan(saved, functions={"sole": dataclasses.replace(sole, calls=(call,))})
    with pytest.raises(Error, match=r"kernels\.so lacks other; compile the model again"):
        gq_tvm.load(saved)(np.zeros((3, 10), np.float32))


def test_an_output_that_no_memory_holds_is_refused(saved):
    _, plan = read(saved)
    sole = plan.functions["sole"]
    made = dataclasses.replace(sole.values[-1], shape=(3, 2**40))
    replan(saved, functions={"sole": dataclasses.replace(sole, values=(*sole.values[:-1], made))})
    net = gq_tvm.load(saved)
    for call in (net["sole"], net["sole"].bind):
        with pytest.raises(Error, match="there is no memory for the outputs of function sole"):
            call(np.zeros((3, 10), np.float32))


ANYWHERE = """
import pwd, sys
def nobody(number): raise KeyError(number)
pwd.getpwuid = nobody  # a user without a name, as in a container, has no home either
import gq_tvm
net = gq_tvm.load(sys.argv[1])
assert not {"torch", "tvm", "tvm_ffi"} & set(sys.modules)
sys.modules["torch"] = None  # as if it was not installed
try:
    gq_tvm.quantize
except gq_tvm.Error as refusal:
    assert "install 'gq-tvm[train]'" in str(refusal)
del sys.modules["torch"]
import torch
from gq_tvm import cache
assert cache.root().name == "gq-tvm"
assert net["sole"](torch.zeros(3, 10)).equal(net["sole"].bind(torch.zeros(3, 10))())
"""


def test_a_model_is_loaded_without_pytorch_and_without_a_home(saved, tmp_path):
    """And takes tensors where PyTorch is imported later."""
    environment = {name: v for name, v in os.environ.items() if name not in ("HOME", *CACHES)}
    program = [sys.executable, "-c", ANYWHERE, saved]
    environment |= {"PYTHONPATH": str(Path(__file__).parents[2]), "TMPDIR": str(tmp_path)}
    core = compiled.provide(native.machine())  # compiling it once more would take a minute
    place = tmp_path / f"cache-{os.getuid()}"
    place.mkdir(mode=0o700)
    (place / "gq-tvm").mkdir()
    (place / "gq-tvm" / core.name).symlink_to(core)
    ran = subprocess.run(program, env=environment, capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (0, "")


def test_the_package_has_what_it_names():
    for name in gq_tvm.__all__:
        assert getattr(gq_tvm, name) is not None
    assert gq_tvm.__getattr__("quantize") is sys.modules["gq_tvm.quantize"]
    with pytest.raises(AttributeError, match="'gq_tvm' has no attribute 'nothing'"):
        gq_tvm.nothing  # noqa: B018


def test_a_model_shows_what_it_is(saved):
    shown = repr(gq_tvm.load(saved))
    assert shown.startswith(f"<gq_tvm model for {read(saved)[0].target}: main(input ")
    assert "sole(x float32 [3, 10]) -> (output_0 float32 [3, 6])" in shown


def test_what_is_no_artefact_is_called_what_it_is(tmp_path):
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "plan.txt").write_text("gq-plan 1\n")
    (tmp_path / "empty").mkdir()
    (tmp_path / "model.pt2").touch()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name, message in {
        "nowhere": "does not exist",
        "a\0b": "does not exist",
        "n" * 300: "cannot be read: File name too long",
        "loop": "cannot be read: Too many levels of symbolic links",
        "bundle": "is not a gq-tvm artefact: it has no readable manifest.json",
        "empty": r"is not a gq-tvm artefact: it has no readable manifest.json \(No such file",
        "model.pt2": "is no artefact; compile it first: python -m gq_tvm.compile",
        "pipe": "is no folder; give the folder that gq_tvm.compile wrote",
    }.items():
        with pytest.raises(Error, match=message):
            gq_tvm.load(tmp_path / name)


def test_another_machine_is_refused_before_code_is_loaded(saved):
    other = "aarch64" if native.machine() == "x86_64" else "x86_64"
    replan(saved, machine=other)
    (saved / KERNELS).write_bytes(b"not even a library")
    with pytest.raises(Error, match=rf"is for {other}, this device is"):
        gq_tvm.load(saved)


@pytest.mark.parametrize(
    ("number", "says"),
    [(40, "code for armhf"), (183, "code for aarch64"), (8, "no code of a machine known here")],
)
def test_code_of_another_machine_is_refused(saved, capsys, number, says):
    """At its place is a library whose checksum is right, for 32-bit ARM, 64-bit ARM or MIPS."""
    if native.machine() == "aarch64" and number == 183:
        pytest.skip("this machine is of that kind: nothing differs")
    code = bytearray((saved / KERNELS).read_bytes())
    code[18:20] = number.to_bytes(2, "little")
    (saved / KERNELS).write_bytes(code)
    replan(saved, kernels=text.content(saved / KERNELS))
    with pytest.raises(Error, match="the kernels cannot be loaded"):
        gq_tvm.load(saved)
    assert inspect.main([str(saved)]) == 2
    message = f"{KERNELS} is {says}, not for {native.machine()} as plan.txt says"
    assert message in capsys.readouterr().err


def test_a_cpu_without_the_features_is_refused_before_code_is_loaded(saved):
    replan(saved, features=("fma", "warp"))
    (saved / KERNELS).write_bytes(b"not even a library")
    with pytest.raises(Error, match=r"this CPU lacks .*warp; compile the model for it"):
        gq_tvm.load(saved)


@pytest.mark.parametrize("at_once", [True, False])
def test_saving_again_replaces_it(saved, artefact, at_once, monkeypatch):
    if not at_once:
        monkeypatch.setattr(artefact_module, "_exchange", lambda one, other: False)
    before = (saved / MANIFEST).read_bytes()
    (saved / KERNELS).unlink()
    artefact.save(saved)
    assert (saved / MANIFEST).read_bytes() == before
    assert [entry.name for entry in saved.parent.iterdir()] == ["model.gq"]


def test_two_folders_are_exchanged_in_one_step(tmp_path):
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text("")
    if artefact_module._exchange(tmp_path / "one", tmp_path / "other"):
        assert (tmp_path / "one" / "other").exists()
        assert (tmp_path / "other" / "one").exists()
    assert not artefact_module._exchange(tmp_path / "one", tmp_path / "nothing")


def test_a_link_to_an_artefact_stays_one(saved, artefact):
    link = saved.parent / "link.gq"
    link.symlink_to(saved)
    artefact.save(link)
    assert link.is_symlink()
    assert gq_tvm.load(link).functions == ["main", "sole"]


def test_a_failure_leaves_the_old_one_whole(saved, artefact):
    def fail(path: Path) -> None:
        path.write_bytes(b"half")
        raise Error("cannot link")

    before = {file.name: file.read_bytes() for file in saved.iterdir()}
    with pytest.raises(Error, match="cannot link"):
        dataclasses.replace(artefact, link=fail).save(saved)
    assert {file.name: file.read_bytes() for file in saved.iterdir()} == before
    assert [entry.name for entry in saved.parent.iterdir()] == ["model.gq"]


def test_what_is_no_artefact_is_not_overwritten(tmp_path, artefact):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "thesis.txt").write_text("years of work")
    (tmp_path / "file").write_text("more of it")
    for name in ("notes", "file"):
        with pytest.raises(Error, match="exists and is not a gq-tvm artefact"):
            artefact.save(tmp_path / name)
    assert (tmp_path / "notes" / "thesis.txt").read_text() == "years of work"
    assert (tmp_path / "file").read_text() == "more of it"


def test_a_place_that_cannot_be_written_is_refused(tmp_path, artefact):
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(Error, match=r"cannot write .*loop: Not a directory"):
        artefact.save(tmp_path / "loop")
    for place, reason in {
        "file/model.gq": "Not a directory",
        "file/more/model.gq": "Not a directory",
        "n" * 300: "File name too long",
        "/proc/model.gq": "(No such file or directory|Permission denied)",  # even root
    }.items():
        for write in (artefact.save, artefact_module.check_place):  # before compiling as well
            with pytest.raises(Error, match=f"cannot write .*{reason}; .*choose another place"):
                write(tmp_path / place)


def test_an_artefact_compiled_anew_in_the_same_place_is_what_is_loaded(tmp_path):
    nets = []
    for activation in ("fp32", "int8"):
        model = torch.nn.Sequential(Linear(8, 8, activation=activation)).eval()
        build(export(model, torch.randn(1, 8)), kernel="scalar").save(tmp_path / "m.gq")
        nets.append((gq_tvm.load(tmp_path / "m.gq"), model))
    x = torch.randn(1, 8)
    for net, model in nets:
        torch.testing.assert_close(net(x), model(x))


class Embed(torch.nn.Module):
    """An embedding that takes whole floats for ids, so that all models here take floats."""

    def __init__(self, rows: int, width: int, bits: int) -> None:
        super().__init__()
        self.table = Embedding(rows, width, bits)

    def forward(self, x):
        return self.table(x.long())


class Recurrent(torch.nn.Module):
    """An LSTM from zeros."""

    def __init__(self, width: int, activation: str) -> None:
        super().__init__()
        self.lstm = Lstm(width, width, activation)

    def forward(self, x):
        state = torch.zeros(1, x.shape[2])
        return self.lstm(x, state, state)[0]


# A layer, and the shape of its input.
SOLE_LAYERS: dict[str, Callable[[], tuple[torch.nn.Module, tuple[int, ...]]]] = {
    "linear-int8": lambda: (Linear(1024, 1024, 2, "int8"), (1, 1024)),
    "linear-fp32": lambda: (Linear(1024, 1024, 2, "fp32"), (1, 1024)),
    "lstm-int8": lambda: (Recurrent(384, "int8"), (1, 2, 384)),
    "lstm-fp32": lambda: (Recurrent(384, "fp32"), (1, 2, 384)),
    "conv-int8": lambda: (Conv(512, 512, 3, activation="int8"), (1, 512, 4)),
    "conv-fp32": lambda: (Conv(512, 512, 3), (1, 512, 4)),
    "conv-grouped": lambda: (Conv(2048, 2048, 3, groups=4), (1, 2048, 4)),
    "embedding": lambda: (Embed(4096, 256, 3), (1, 3)),
}


class TestNoFloatWeights:
    """No float copy of a codebook weight, on disk or in memory."""

    @pytest.fixture(scope="class", params=SOLE_LAYERS)
    def made(self, request, tmp_path_factory) -> tuple[Path, torch.nn.Module, torch.Tensor]:
        module, shape = SOLE_LAYERS[request.param]()
        model, x = torch.nn.Sequential(module), torch.zeros(shape)
        place = tmp_path_factory.mktemp("size") / "model.gq"
        build(export(model, x)).save(place)
        return place, model, x

    @staticmethod
    def weights_of(model: torch.nn.Module) -> int:
        return sum(b.numel() for name, b in model.named_buffers() if "indices" in name)

    def test_bytes_of_the_files(self, made):
        place, model, _ = made
        _, plan = read(place)
        packed = sum(math.prod(one.shape) * one.bits // 8 for one in plan.layers)
        rows = sum(one.shape[0] for one in plan.layers)
        others = 3 * 4 * rows  # bias and scale, and room for a sum per row
        others += sum(4 * b.numel() for name, b in model.named_buffers() if "codebook" in name)
        size = sum(file.stat().st_size for file in place.iterdir())
        assert packed <= (place / WEIGHTS).stat().st_size <= packed + others + 4096
        assert size < packed + others + 250_000  # the code does not grow with the weights
        assert packed + others + 250_000 < 3 * self.weights_of(model)  # so floats would be seen

    def test_no_parameter_is_a_float_weight(self, made):
        place, model, x = made
        net = gq_tvm.load(place)
        least = min(math.prod(one.shape) for one in net.layers)
        for name, array in weights.mapped(place / WEIGHTS).items():
            assert array.dtype.kind != "f" or array.size < least // 8, name
        torch.testing.assert_close(net(x), model(x), rtol=1e-4, atol=1e-4)

    def test_memory_of_a_loaded_model(self, made):
        """What loading and calling adds to the resident memory is a fraction of float weights."""
        import psutil

        place, model, x = made
        process = psutil.Process()
        gq_tvm.load(place)(x)  # what is needed only once
        before = process.memory_info().rss
        nets = [gq_tvm.load(place) for _ in range(8)]
        for net in nets:
            net(x)
        added = (process.memory_info().rss - before) / len(nets)
        assert added < 2 * self.weights_of(model)  # half of the float weight
