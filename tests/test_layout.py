"""The order of the layers: a module imports what lies beneath it, never what lies above."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Beneath everything: they import one another and the standard library.
BASE = {
    "errors",
    "files",
    "reading",
    "records",
    "cache",
    "columns",
    "command",
    "interrupts",
    "toolchain",
}

# The compile side, lowest first; a module may import what is before it in this list, and its own
# entry. What an artefact is on disk lies beneath `build`, which writes one; running it, above. A
# plan as data lies beneath all but the definitions; how one is made of a lowered module, above the
# passes.
COMPILE_SIDE = [
    {"targets", "ops"},
    {"onnx_functions"},
    {"plan", "onnx_import"},
    {"schedules"},
    {"passes"},
    {"frontend", "plan.from_module"},
    {"onnx_export"},
    {"runtime.artefact", "core"},
    {"build"},
    {"deploy"},
    {"runtime"},
    {"modelled"},
    {"tuning"},
]

# The training side, which the compile side knows nothing of.
TRAINING_SIDE = {
    "weight_files": {"ops"},
    "quantize": {"ops", "weight_files"},
    "exported": {"ops", "quantize"},
    "speech": {"ops"},
    "models": {"ops", "quantize", "speech"},
}

# The user's folders: parts of gq_tvm, and no packages of their own.
LINKED = ("passes", "schedules", "targets")

COMPILE_NAMES = {name for layer in COMPILE_SIDE for name in layer}

# A tree of the same shape for the tests of the check itself.
EMPTY = {
    f"gq_tvm.{name}": ""
    for name in (*COMPILE_NAMES, *TRAINING_SIDE, *BASE, "runtime.devices", "compile", "device")
}


def part(module: str) -> str | None:
    """Return the entry of the tables a module of gq_tvm belongs to, or None for a command."""
    name = module.removeprefix("gq_tvm").removeprefix(".")
    entries = COMPILE_NAMES | BASE | TRAINING_SIDE.keys()
    fitting = [entry for entry in entries if name == entry or name.startswith(f"{entry}.")]
    return max(fitting, key=len, default=None)


def allowed(importer: str, imported: str) -> bool:
    """Return whether one module of gq_tvm may import another."""
    above, beneath = part(importer), part(imported)
    if imported == "gq_tvm" or beneath in BASE or above is None or above == beneath:
        return True  # the package itself holds the version and the error
    if above in TRAINING_SIDE:
        return beneath in TRAINING_SIDE[above]
    if above in BASE or beneath not in COMPILE_NAMES:
        return False
    rank = {name: number for number, layer in enumerate(COMPILE_SIDE) for name in layer}
    within = above.partition(".")[0] == beneath.partition(".")[0]
    return rank[beneath] < rank[above] or (rank[beneath] == rank[above] and within)


def module_name(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def imports(source: str, module: str, known: set[str]) -> Iterator[str]:
    """Yield the modules a module imports anywhere in it; `known` tells modules from names."""
    packages = {name.rpartition(".")[0] for name in known}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = module
                for _ in range(node.level - (module in packages)):
                    package = package.rpartition(".")[0]
                base = f"{package}.{base}".removesuffix(".")
            for alias in node.names:
                name = f"{base}.{alias.name}"
                yield name if name in known else base


def sources(folder: Path) -> dict[str, str]:
    """Return the text of every module of a package folder (links are followed), by module name."""
    found = {}
    for path in walk(folder):
        found[module_name(path.relative_to(folder.parent))] = path.read_text(encoding="utf-8")
    return found


def walk(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            yield from walk(path)
        elif path.suffix == ".py":
            yield path


def violations(modules: dict[str, str]) -> list[str]:
    known = {name for module in modules for name in (module, module.rpartition(".")[0])}
    return sorted(
        f"{module} imports {imported}"
        for module, source in modules.items()
        if module != "gq_tvm"  # it names what is above only to load it on first use
        for imported in imports(source, module, known)
        if imported.partition(".")[0] in ("gq_tvm", *LINKED)
        and (imported.partition(".")[0] in LINKED or not allowed(module, imported))
    )


def test_imports_run_downwards():
    modules = sources(ROOT / "gq_tvm")
    assert {"gq_tvm.toolchain.linker", "gq_tvm.runtime.devices.device"} <= modules.keys()
    assert violations(modules) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("gq_tvm.targets.arm", "import gq_tvm.schedules"),
        ("gq_tvm.ops.torch_ops", "from gq_tvm.targets import arm"),
        (
            "gq_tvm.schedules.cpu.engines.lookup",
            "def f():\n    from gq_tvm.passes import pack_weights",
        ),
        ("gq_tvm.passes.pack_weights", "from gq_tvm import quantize"),
        ("gq_tvm.passes.pack_weights", "from gq_tvm import frontend"),
        ("gq_tvm.runtime.artefact.folder", "from gq_tvm.build import build"),
        ("gq_tvm.runtime.artefact.folder", "from gq_tvm.runtime import devices"),
        ("gq_tvm.runtime.artefact.folder", "from ..devices.device import LocalDevice"),
        ("gq_tvm.build", "from gq_tvm.runtime.devices.device import Device"),
        ("gq_tvm.build", "from gq_tvm.compile import main"),
        ("gq_tvm.runtime.model", "from gq_tvm import tuning"),
        ("gq_tvm.runtime.model", "from gq_tvm.speech import features"),
        ("gq_tvm.quantize.quantisers.gq", "from gq_tvm.models import rnnt"),
        ("gq_tvm.models.networks.rnnt", "from gq_tvm.build import build"),
        ("gq_tvm.errors", "import gq_tvm.ops"),
        ("gq_tvm.build", "import passes"),
        ("gq_tvm.build", "from schedules.lookup import Lookup"),
    ],
)
def test_each_kind_of_violation_is_found(module: str, source: str):
    modules = EMPTY | {module: source}
    assert len(violations(modules)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        (
            "gq_tvm.schedules.cpu.engines.lookup",
            "from gq_tvm.targets import arm\nfrom gq_tvm import Error",
        ),
        ("gq_tvm.build", "from gq_tvm import __version__, frontend, passes"),
        ("gq_tvm.runtime.model", "from . import artefact, devices"),
        ("gq_tvm.tuning.bench", "from gq_tvm.runtime import devices"),
        (
            "gq_tvm.models.training.trainer",
            "from gq_tvm import quantize\nfrom gq_tvm.speech import audio",
        ),
        ("gq_tvm.compile", "from gq_tvm.build import build\nfrom gq_tvm import models, device"),
    ],
)
def test_what_is_allowed(module: str, source: str):
    modules = EMPTY | {module: source}
    assert violations(modules) == []


def test_tests_use_the_packages_names():
    for folder in (ROOT / "tests", ROOT / "benchmarks"):
        for module, source in sources(folder).items() if folder.exists() else ():
            bare = [name for name in imports(source, module, set()) if name.split(".")[0] in LINKED]
            assert bare == [], f"{module} imports {bare}: write gq_tvm.{bare[0]}"


def test_links_are_relative():
    for name in LINKED:
        link = ROOT / "gq_tvm" / name
        assert link.is_symlink()
        assert str(link.readlink()) == f"../{name}"


def test_dependencies_of_the_compiler_are_exact():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extra = project["optional-dependencies"]
    for name in ("apache-tvm", "apache-tvm-ffi", "torch", "ziglang"):
        needed = extra["train" if name == "torch" else "compile"]
        pins = [line for line in needed if line.startswith(f"{name}=")]
        assert len(pins) == 1
        assert pins[0].startswith(f"{name}==")
    assert "gq-tvm[compile,train]" in extra["dev"]
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    assert set(build) <= {*extra["compile"], "setuptools>=77"}


def test_what_is_always_installed_brings_no_cuda():
    """PyTorch and plain xgboost of the public index are made for it."""
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    on_x86 = [line for line in needed if "!= 'x86_64'" not in line]
    cuda = re.compile(r"(torch|xgboost|triton|nvidia)\b(?!-cpu)")
    assert not [line for line in on_x86 if cuda.match(line)]
