"""The table of ONNX files: what is measured again, and its report; no package, no download."""

from __future__ import annotations

import json
import zipfile

import pytest

from benchmarks.machine import circumstances
from benchmarks.onnx_files import __main__ as command
from benchmarks.onnx_files import report
from benchmarks.onnx_files.listed import Entry, entries

MEASURED = {
    "bytes": 2_000_000, "nodes": 7, "error": 2e-6, "compiled_error": 3e-5, "compile_seconds": 1.25,
    "theirs": 3e-3, "ours": 2e-3, "import_peak": 5_000_000,
}  # fmt: skip
REFUSED = {"bytes": 10, "nodes": 2, "refused": "1 node is not supported: Foo"}


@pytest.fixture
def results(tmp_path):
    folder = tmp_path / "results"
    folder.mkdir()
    return folder


def entry(folder, name):
    return Entry("a package 1.0", folder / f"{name}.onnx")


def test_a_file_is_measured_until_it_is_compiled_or_refused(results):
    path = results / "a.json"
    assert command._is_left(path, no_compile=True)
    for told, again in ((MEASURED, False), (REFUSED, False), ({"bytes": 1, "nodes": 1}, True)):
        path.write_text(json.dumps(told))
        assert command._is_left(path, no_compile=False) == again
        assert not command._is_left(path, no_compile=True)


def test_the_report_says_what_each_file_did_and_which_are_missing(results, tmp_path):
    files = [entry(tmp_path, name) for name in ("good", "refused", "absent")]
    for one, told in zip(files, (MEASURED, REFUSED), strict=False):
        (results / f"{one.name}.json").write_text(json.dumps(told))
    report.write(files, results, tmp_path, circumstances())
    text = (tmp_path / "onnx_files.md").read_text()
    (good,) = [line for line in text.splitlines() if line.startswith("| good.onnx")]
    cells = [one.strip() for one in good.strip("|").split("|")]
    assert cells[2:] == ["7", "yes", "2.0e-06", "3.0e-05", "1.2", "1.50", "5 MB", "2.5"]
    (refused,) = [line for line in text.splitlines() if line.startswith("| refused.onnx")]
    assert "not supported: Foo" in refused
    assert refused.count(" - ") == 6
    assert f"Not measured: {files[2].name}." in text
    kept = json.loads((tmp_path / "onnx_files.json").read_text())["files"]
    assert kept[files[0].name]["import_peak"] == 5_000_000


def test_files_are_found_in_wheels(tmp_path):
    wheel = tmp_path / "some_models-1.2-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("some_models/a.onnx", b"x")
        archive.writestr("some_models/readme.txt", b"y")
    (found,) = entries(tmp_path, tmp_path / "unpacked")
    assert found.package == "some_models 1.2"
    assert found.path.read_bytes() == b"x"
