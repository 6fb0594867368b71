"""The wheel holds the whole of gq_tvm, the linked folders included, and nothing beside it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

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
    for path in (*ROOT.glob("*.toml"), *ROOT.glob("*.md"), ROOT / "LICENSE"):
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


def test_installed_it_works_from_anywhere(wheel: Path, tmp_path: Path):
    home = tmp_path / "venv"
    venv.create(home, with_pip=False)
    python = home / "bin" / "python"
    # A wheel of Python alone is installed by unpacking it. The dependencies are those of this
    # environment, for the sake of time.
    (site,) = home.glob("lib/python3*/site-packages")
    zipfile.ZipFile(wheel).extractall(site)
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    program = (
        "import gq_tvm, importlib.util as util\n"
        "gq_tvm.load\n"
        "from gq_tvm import passes, schedules, targets\n"
        "from gq_tvm.runtime import board\n"
        "for package in (gq_tvm, passes, schedules, targets):\n"
        "    assert package.__file__.startswith('VENV'), package.__file__\n"
        "assert not any(util.find_spec(bare) for bare in ('passes', 'schedules', 'targets'))\n"
        "assert board.locate('/nowhere').folder.name.startswith('aarch64-')\n"
        "print(targets.get('native').name)\n"
    ).replace("VENV", str(home))
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    done = subprocess.run(
        [python, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
