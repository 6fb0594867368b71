"""The folder an artefact is: how it is written, what of it is checked before it runs."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
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
from gq_tvm.errors import Error
from gq_tvm.runtime import artefact as artefact_module
from gq_tvm.runtime import profiling, weights
from gq_tvm.runtime.artefact import CODE, MANIFEST, WEIGHTS, Artefact, read_manifest
from gq_tvm.runtime.devices import LocalDevice


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


CACHES = ("XDG_CACHE_HOME", "GQ_TVM_CACHE")


def read_json(saved: Path) -> dict:
    return json.loads((saved / MANIFEST).read_text())


def test_it_is_a_folder_of_three_files(saved):
    assert sorted(file.name for file in saved.iterdir()) == [MANIFEST, CODE, WEIGHTS]
    assert gq_tvm.load(saved)(torch.zeros(2, 1, 10)).shape == (2, 1, 6)


def test_the_manifest_survives_a_round_trip(saved, artefact):
    assert read_manifest(saved) == artefact.manifest


@pytest.mark.parametrize("name", [CODE, WEIGHTS])
@pytest.mark.parametrize("harm", ["truncate", "flip", "remove"])
def test_a_damaged_file_is_refused(saved, name, harm):
    file = saved / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    if harm == "remove":
        file.unlink()
    else:
        file.write_bytes(content[:-1] if harm == "truncate" else content)
    with pytest.raises(Error, match=f"{name}.*compile the model again"):
        gq_tvm.load(saved)


DAMAGED = {
    "": r"damaged manifest \(it is no JSON",
    "\xff": r"damaged manifest \(it is no JSON",
    '{"format"': r"damaged manifest \(it is no JSON",
    "[" * 100_000: r"damaged manifest \(it has too many brackets",
    "[" * 65 + "]" * 65: r"damaged manifest \(it has too many brackets",
    '{"a": {"b": 1, "c": 2, "b": 3}}': r'damaged manifest \(it has "b" twice in one table\)',
    "[]": "is not a gq-tvm artefact",
    '{"format": "else"}': "is not a gq-tvm artefact",
    '{"format": "gq-tvm artefact", "version": 1}': r"damaged manifest \(target is missing\)",
    '{"format": "gq-tvm artefact", "version": 99}': "has artefact format 99",
}


def test_a_damaged_manifest_is_refused(saved):
    for text, message in DAMAGED.items():
        (saved / MANIFEST).write_bytes(text.encode("latin-1"))
        with pytest.raises(Error, match=message):
            gq_tvm.load(saved)


@pytest.mark.parametrize("name", [MANIFEST, CODE, WEIGHTS])
def test_what_is_no_file_is_not_read(saved, name):
    """A pipe would keep the reader waiting, a device might have no end."""
    for make in (os.mkfifo, lambda at: at.symlink_to("/dev/zero"), lambda at: at.symlink_to(at)):
        (saved / name).unlink()
        make(saved / name)
        with pytest.raises(Error, match=f"no readable {MANIFEST}|lacks {name}"):
            gq_tvm.load(saved)


def test_a_manifest_of_other_weights_is_refused(saved):
    change(saved, lambda manifest: manifest["parameter_bytes"].update(other=4))
    with pytest.raises(Error, match="lacks the weight other"):
        gq_tvm.load(saved)
    change(saved, lambda manifest: manifest["parameter_bytes"].pop("other"))
    change(saved, lambda manifest: manifest["parameter_bytes"].update({"main.0.table": 4}))
    with pytest.raises(Error, match=r"bytes of the weight main.0.table, its manifest says 4"):
        gq_tvm.load(saved)


# What is altered, by its place in the manifest; to what; and what is said of it.
ALTERATIONS: list[tuple[str, Any, str]] = [
    ("functions", {}, "functions is empty"),
    ("functions", [], "functions is [], not a table"),
    ("functions.main.inputs", None, "functions.main.inputs is null, not a list"),
    ("functions.main.inputs.0.dtype", "float33", "functions.main.inputs[0].dtype is none of bool,"),
    ("functions.main.inputs.0.dtype", ">f4", "functions.main.inputs[0].dtype is none of bool,"),
    ("functions.main.inputs.0.shape", [1.5], "inputs[0].shape[0] is 1.5, not a whole number or"),
    (
        "functions.main.inputs.0.shape",
        ["\ud800"],
        'inputs[0].shape[0] has half a character, "\\ud800"',
    ),
    ("functions.main.outputs.0.shape", [1] * 65, "outputs[0].shape has more than 64 sizes"),
    ("functions.main.outputs.0.shape", [-1], "outputs[0].shape has a negative size"),
    (
        "functions.main.outputs.0.shape",
        [2**63],
        "shape[0] is 9223372036854775808, more than 64 bits",
    ),
    ("functions.main.outputs", [], "functions.main.single is true, but there is not one output"),
    ("functions.main.bounds", {"s0": [1]}, "functions.main.bounds.s0 is not two numbers"),
    ("functions.main.parameters", ["other"], "functions.main.parameters names other, which there"),
    (
        "functions.sole.kernel",
        ["linear1", "y"],
        "functions.sole.kernel names y, which there",
    ),
    ("functions.sole.inputs.0.name", "y", "functions.sole.kernel names x, which there is not"),
    ("layers.0.name", 1, "layers[0].name is 1, not a text"),
    ("layers.0.parameters", ["other"], "layers[0].parameters names other, which there is not"),
    ("layers.0.more", 1, "layers[0].more is unknown"),
    ("products.0.k", 7, "products[0] is of no layer's weight"),
    ("products.0.rows", -1, "products[0].rows is negative"),
    ("products.0.glu", None, "products[0].glu is null, not true or false"),
    ("parameter_bytes.x", "four", 'parameter_bytes.x is "four", not a whole number'),
    ("target.features", "avx2", 'target.features is "avx2", not a list'),
    ("target", None, "target is null, not a table"),
    ("files", [], "files is [], not a table"),
    ("files", {}, "files.model.so is missing"),
]


def alter(manifest, place: str, value) -> None:
    *way, last = [int(key) if key.isdecimal() else key for key in place.split(".")]
    for key in way:
        manifest = manifest[key]
    manifest[last] = value


def test_an_altered_manifest_is_refused_by_key(original, saved):
    for place, value, message in ALTERATIONS:
        shutil.copy(original / MANIFEST, saved)
        change(saved, lambda manifest, at=place, to=value: alter(manifest, at, to))
        with pytest.raises(Error) as refusal:
            gq_tvm.load(saved)
        assert "damaged manifest (" in str(refusal.value), place
        assert message in str(refusal.value)


def test_code_that_is_not_what_the_manifest_says_is_refused(original, saved):
    for place, value in {
        "functions.other": read_json(original)["functions"]["main"],
        "functions.sole.kernel": ["other"],
    }.items():
        shutil.copy(original / MANIFEST, saved)
        change(saved, lambda manifest, at=place, to=value: alter(manifest, at, to))
        with pytest.raises(
            Error, match=r"code that is not what its manifest.json says \(.*'other'"
        ):
            gq_tvm.load(saved)


def places(value, *way):
    """Where there is a value in a manifest; of a list, in its first element."""
    inner = value.items() if isinstance(value, dict) else enumerate(value[:1])
    for key, one in inner:
        yield (*way, key)
        if isinstance(one, list | dict):
            yield from places(one, *way, key)


BAD: list[Any] = [None, True, -1, 2**62, 1e308, "", "1" + "+1" * 400, [], {}, [[]], {"x": 1}]


def test_no_value_at_any_place_is_more_than_refused(original, saved, capsys):
    """What an edited manifest gives is an answer or one sentence; `inspect` has no more."""
    manifest = read_json(original)
    x = np.zeros((2, 3, 10), np.float32)
    taken = refused = 0
    for *way, last in places(manifest):
        at = functools.reduce(lambda inner, key: inner[key], way, manifest)
        true = at[last]
        for at[last] in BAD:
            (saved / MANIFEST).write_text(json.dumps(manifest))
            try:
                read_manifest(saved)
            except Error:
                refused += 1
                continue
            taken += 1
            assert inspect.main([str(saved)]) in (0, 2)
            with contextlib.suppress(Error):
                net = gq_tvm.load(saved)
                for name, function in net.items():
                    given = x if name == "main" else x[0]
                    function(given)
                    function.bind(given)()
        at[last] = true
    assert "Traceback" not in capsys.readouterr().err
    assert taken > 50
    assert refused > 700


def test_a_kernel_that_is_not_what_the_manifest_says_is_not_timed(original, saved):
    for place, value in {"symbol": "other", "outputs.0.1": 2**50, "arguments": []}.items():
        shutil.copy(original / MANIFEST, saved)
        change(
            saved,
            lambda manifest, at=f"functions.main.calls.0.{place}", to=value: alter(
                manifest, at, to
            ),
        )
        with pytest.raises(
            Error, match=r"the layers cannot be timed \(.*\); compile the model again"
        ):
            profiling.compare({"": gq_tvm.load(saved)}, rounds=1)


def test_an_output_that_no_memory_holds_is_refused(saved):
    change(saved, lambda manifest: alter(manifest, "functions.sole.outputs.0.shape.1", 2**40))
    net = gq_tvm.load(saved)
    for call in (net["sole"], net["sole"].bind):
        with pytest.raises(Error, match="function sole failed: Unable to allocate"):
            call(np.zeros((3, 10), np.float32))


ANYWHERE = """
import pwd, sys
def nobody(number): raise KeyError(number)
pwd.getpwuid = nobody  # a user without a name, as in a container, has no home either
import gq_tvm
net = gq_tvm.load(sys.argv[1])
assert "torch" not in sys.modules
sys.modules["torch"] = None  # as if it was not installed
try:
    gq_tvm.quantize
except gq_tvm.Error as refusal:
    assert "install 'gq-tvm[torch]'" in str(refusal)
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
    assert shown.startswith(f"<gq_tvm model for {read_manifest(saved).target['name']}: main(input ")
    assert "sole(x float32 [3, 10]) -> (output_0 float32 [3, 6])" in shown


def test_weights_of_another_kind_are_refused(saved, artefact):
    """As many bytes, another dtype, and the right hash."""
    others = {
        name: array.view(np.int32) if array.dtype == np.float32 else array
        for name, array in artefact.parameters.items()
    }
    weights.write(saved / WEIGHTS, others)
    digest = artefact_module.sha256(saved / WEIGHTS)
    change(saved, lambda manifest: manifest["files"].update({WEIGHTS: digest}))
    with pytest.raises(Error, match=r"function main failed: .*compile the model again"):
        gq_tvm.load(saved)(torch.zeros(2, 1, 10))


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
        "bundle": "is a bundle, for gq-run on the device",
        "empty": r"is not a gq-tvm artefact: it has no readable manifest.json \(No such file",
        "model.pt2": "is no artefact; compile it first: python -m gq_tvm.compile",
        "pipe": "is no folder; give the folder that gq_tvm.compile wrote",
    }.items():
        with pytest.raises(Error, match=message):
            gq_tvm.load(tmp_path / name)


def test_another_machine_is_refused_before_code_is_loaded(saved, monkeypatch):
    other = "aarch64" if LocalDevice().machine == "x86_64" else "x86_64"
    change(saved, lambda manifest: manifest["target"].update(machine=other, name="board"))
    (saved / CODE).write_bytes(b"not even a library")
    with pytest.raises(Error, match=rf"is for board \({other}\), this device is"):
        gq_tvm.load(saved)


@pytest.mark.parametrize(
    ("number", "says"),
    [(40, "code for armhf"), (183, "code for aarch64"), (8, "no code of a machine known here")],
)
def test_code_of_another_machine_is_refused(saved, capsys, number, says):
    """At its place is a library whose hash is right, for 32-bit ARM, 64-bit ARM or MIPS."""
    target = read_manifest(saved).target
    if target["machine"] == "aarch64" and number == 183:
        pytest.skip("this machine is of that kind: nothing differs")
    code = bytearray((saved / CODE).read_bytes())
    code[18:20] = number.to_bytes(2, "little")
    (saved / CODE).write_bytes(code)
    digest = artefact_module.sha256(saved / CODE)
    change(saved, lambda manifest: manifest["files"].update({CODE: digest}))
    message = f"{CODE} is {says}, not for {target['name']} ({target['machine']}) as"
    with pytest.raises(Error, match=re.escape(message)):
        gq_tvm.load(saved)
    assert inspect.main([str(saved)]) == 2
    assert message in capsys.readouterr().err


def test_a_cpu_without_the_features_is_refused_before_code_is_loaded(saved):
    change(saved, lambda manifest: manifest["target"].update(features=["fma", "warp"]))
    (saved / CODE).write_bytes(b"not even a library")
    with pytest.raises(Error, match=r"this CPU lacks .*warp; compile the model for it"):
        gq_tvm.load(saved)


@pytest.mark.parametrize("at_once", [True, False])
def test_saving_again_replaces_it(saved, artefact, at_once, monkeypatch):
    if not at_once:
        monkeypatch.setattr(artefact_module, "_exchange", lambda one, other: False)
    before = (saved / MANIFEST).read_bytes()
    (saved / CODE).unlink()
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
        manifest = read_manifest(place)
        packed = sum(math.prod(one.shape) * one.bits // 8 for one in manifest.layers)
        rows = sum(one.shape[0] for one in manifest.layers)
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
