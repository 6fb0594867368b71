"""The wheel holds the whole of gq_tvm, the linked folders and the core included, and no more."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

import gq_tvm
from gq_tvm.recognition import recogniser_of
from gq_tvm.speech import audio

pytest.importorskip("setuptools")
pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build from a copy: an earlier build's leftovers in the checkout must not count."""
    folder = tmp_path_factory.mktemp("wheel")
    skip = shutil.ignore_patterns("__pycache__", "*.egg-info", ".mypy_cache")
    for name in ("gq_tvm", "passes", "schedules", "targets"):
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=skip)
    for path in (*ROOT.glob("*.toml"), *ROOT.glob("*.md"), ROOT / "setup.py", ROOT / "LICENSE"):
        shutil.copy(path, folder)
    make = "from setuptools import build_meta; build_meta.build_wheel('dist')"
    subprocess.run([sys.executable, "-c", make], cwd=folder, check=True, capture_output=True)
    (built,) = (folder / "dist").iterdir()
    return built


def files(folder: Path) -> set[str]:
    """Return what of a folder belongs in the wheel; links are followed."""
    found = set()
    for path in folder.iterdir():
        if path.is_dir() and path.name != "__pycache__":
            found |= {f"{folder.name}/{name}" for name in files(path)}
        elif path.suffix in {".py", ".c", ".json", ".pt2", ".toml", ".wav"}:
            found.add(f"{folder.name}/{path.name}")
    return found


def test_everything_is_in_it(wheel: Path):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == {"gq_tvm"}
    assert files(ROOT / "gq_tvm") - names == set()
    for one in ("licenses/LICENSE", "entry_points.txt"):
        assert any(name.endswith(one) for name in names)


def test_it_is_for_one_machine_and_every_python(wheel: Path):
    machine = platform.machine()
    assert wheel.name.endswith(f"-py3-none-manylinux_2_27_{machine}.whl")
    names = zipfile.ZipFile(wheel).namelist()
    built = {name for name in names if name.startswith("gq_tvm/core/built/")}
    assert {Path(name).name for name in built} == {"gq-run", "libgq.so", "report.o"}
    assert {Path(name).parent.name for name in built} == {machine}


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an environment that has the wheel: unpacked, which is what pip would do."""
    home = tmp_path_factory.mktemp("installed") / "venv"
    venv.create(home, with_pip=False)
    (site,) = home.glob("lib/python3*/site-packages")
    zipfile.ZipFile(wheel).extractall(site)
    return home


def run(home: Path, program: str, *words: object) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(home.parent)}
    command = [str(home / "bin" / "python"), *(["-c", program] if program else []), *words]
    return subprocess.run(
        [*map(str, command)], cwd=home.parent, env=environment, capture_output=True, text=True
    )


def test_alone_it_runs_models_and_says_what_compiling_takes(installed: Path, tmp_path: Path):
    """With nothing beside it but NumPy and what reads recordings."""
    (site,) = installed.glob("lib/python3*/site-packages")
    for name in (
        *("numpy", "numpy.libs", "soundfile.py", "_soundfile.py", "_soundfile_data"),
        "typing_extensions.py",
    ):
        (site / name).symlink_to(Path(sysconfig.get_path("purelib")) / name)
    for found in Path(sysconfig.get_path("platlib")).glob("*cffi*"):
        (site / found.name).symlink_to(found)
    digits = ROOT / "gq_tvm" / "models" / "digits"
    gq_tvm.build(digits / "digits.pt2").save(tmp_path / "digits.gq")
    recording = sorted((digits / "samples").glob("*.wav"))[0]
    net = recogniser_of(gq_tvm.load(tmp_path / "digits.gq"), "digits.gq")
    wanted = net.transcribe(audio.read(recording, net.sample_rate))
    heard = run(installed, "", "-m", "gq_tvm.transcribe", tmp_path / "digits.gq", recording)
    assert heard.returncode == 0, heard.stderr
    assert heard.stdout.startswith(f"{recording}: {wanted}\n")
    for command, package, extra in (
        (["compile", digits / "digits.pt2", "-o", tmp_path / "x.gq"], "", "compile"),
        (["train", "--list"], "PyTorch", "train"),
    ):
        refused = run(installed, "", "-m", f"gq_tvm.{command[0]}", *command[1:])
        assert refused.returncode == 2
        assert re.fullmatch(
            rf"error: this needs {package}.*, which is not installed: run .* "
            rf"'gq-tvm\[{extra}\]'\n",
            refused.stderr,
        )
    for path in filter(Path.is_symlink, site.iterdir()):
        path.unlink()


def test_installed_it_works_from_anywhere(installed: Path):
    # The dependencies are those of this environment, for the sake of time.
    (site,) = installed.glob("lib/python3*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    program = (
        "import gq_tvm, importlib.util as util\n"
        "gq_tvm.load\n"
        "from gq_tvm import passes, schedules, targets\n"
        "from gq_tvm.runtime.devices import board\n"
        "for package in (gq_tvm, passes, schedules, targets):\n"
        "    assert package.__file__.startswith('VENV'), package.__file__\n"
        "assert not any(util.find_spec(bare) for bare in ('passes', 'schedules', 'targets'))\n"
        "assert board.locate('/nowhere').folder.name.startswith('aarch64-')\n"
        "print(targets.get('native').name)\n"
    ).replace("VENV", str(installed))
    done = run(installed, program)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
