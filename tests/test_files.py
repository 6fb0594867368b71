"""Files are there whole or not at all, and a full disk is a sentence."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gq_tvm import files
from gq_tvm.errors import Error
from gq_tvm.models.training import run_report

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


KILLED = """
import os, signal, sys
from pathlib import Path
from gq_tvm import files
with files.folder_beside(Path(sys.argv[1])) as folder:
    (folder / "half").touch()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_killed_processes_left_is_removed_and_nothing_else(tmp_path):
    place = tmp_path / "m.gq"
    ended = subprocess.run([sys.executable, "-c", KILLED, place])
    assert ended.returncode == -9
    (left,) = tmp_path.iterdir()
    (tmp_path / ".m.gq.writing-link").symlink_to(tmp_path)
    (tmp_path / ".other.gq.writing-1").mkdir()
    with files.folder_beside(place) as one, files.folder_beside(place) as other:
        assert one.exists()  # its process lives
        assert other.exists()
        assert not left.exists()
    assert {one.name for one in tmp_path.iterdir()} == {".m.gq.writing-link", ".other.gq.writing-1"}


def test_only_a_file_is_read(tmp_path):
    (tmp_path / "a").write_bytes(b"12345")
    assert files.read(tmp_path / "a", 5) == b"12345"
    with pytest.raises(OSError, match="it has more than 4 bytes"):
        files.read(tmp_path / "a", 4)
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(OSError, match="it is no regular file"):
            files.read(path, 5)
    with pytest.raises(IsADirectoryError):
        files.read(tmp_path, 5)
