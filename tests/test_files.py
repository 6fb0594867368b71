"""Files are there whole or not at all, and a full disk is a sentence."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from gq_tvm import files
from gq_tvm.errors import Error
from gq_tvm.models import run_report

FULL = """
import resource, signal, sys
from gq_tvm import files
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    files.write_text(sys.argv[1], "x" * 2000)
except files.Error as error:
    sys.exit(str(error))
"""


def test_a_file_and_its_folder_are_made(tmp_path):
    files.write_text(tmp_path / "a" / "b.toml", "é\n")
    assert (tmp_path / "a" / "b.toml").read_bytes() == "é\n".encode()
    run_report.write(tmp_path / "c.json", {"a": 1})
    assert json.loads((tmp_path / "c.json").read_text()) == {"a": 1}
    assert sorted(one.name for one in tmp_path.iterdir()) == ["a", "c.json"]


def test_a_disk_that_is_full_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    asked = subprocess.run([sys.executable, "-c", FULL, path], capture_output=True, text=True)
    assert asked.stderr == (
        f"{path} cannot be written (File too large); make room, or choose another file\n"
    )
    assert [one.read_text() for one in tmp_path.iterdir()] == ["old"]


@pytest.mark.parametrize("problem", [ValueError, KeyboardInterrupt])
def test_what_goes_wrong_inside_leaves_the_old_file(tmp_path, problem):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def half() -> None:
        with files.whole(path) as temporary:
            temporary.write_text("half")
            raise problem

    with pytest.raises(problem):
        half()
    assert [one.read_text() for one in tmp_path.iterdir()] == ["old"]


def test_a_folder_that_is_a_file(tmp_path: Path):
    (tmp_path / "a").touch()
    with pytest.raises(Error, match=r"b\.json cannot be written \(.*\); make room, then resume"):
        run_report.write(tmp_path / "a" / "b.json", {})
