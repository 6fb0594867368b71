"""Archives made of a good ``.pt2``, with members altered."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

Edit = Callable[[bytes], bytes]


def altered(
    good: Path,
    made: Path,
    edits: Mapping[str, Edit] | None = None,
    added: Mapping[str, bytes] | None = None,
    left_out: str = "",
    compression: int = zipfile.ZIP_STORED,
) -> Path:
    """Copy an archive, members (by the endings of their names) edited, added or left out."""
    with zipfile.ZipFile(good) as source, zipfile.ZipFile(made, "w", compression) as target:
        for name in source.namelist():
            data = source.read(name)
            for ending, edit in (edits or {}).items():
                data = edit(data) if name.endswith(ending) else data
            if not left_out or not name.endswith(left_out):
                target.writestr(name, data)
        folder = source.namelist()[0].partition("/")[0]
        for name, data in (added or {}).items():
            target.writestr(f"{folder}/{name}", data)
    return made
