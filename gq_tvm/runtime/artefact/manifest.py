"""What ``manifest.json`` says of an artefact: whatever its plan does not."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from gq_tvm import records
from gq_tvm.errors import Error
from gq_tvm.records import Wrong

FORMAT = "gq-tvm artefact"
VERSION = 2


@dataclass
class Manifest:
    """What an artefact is, besides its plan.

    Attributes:
        target: The name of the device it was compiled for.
        threads: Threads it was compiled for; kernels for several run on any number.
        metadata: JSON that came with the programs.
        versions: Of gq-tvm and TVM.
    """

    target: str
    threads: int = 1
    metadata: Any = None
    versions: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The manifest as JSON."""
        return {"format": FORMAT, "version": VERSION, **dataclasses.asdict(self)}

    @staticmethod
    def from_json(data: Any, where: str) -> Manifest:
        """The inverse of `to_json`.

        Raises:
            Error: `data` is no manifest of this version; `where` names it in the text.
        """
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise Error(f"{where} is not a gq-tvm artefact; compile the model again")
        if data.get("version") != VERSION:
            raise Error(
                f"{where} has artefact format {data.get('version')}, this gq-tvm reads format "
                f"{VERSION}; compile the model again"
            )
        try:
            fields = {k: v for k, v in data.items() if k not in ("format", "version")}
            manifest: Manifest = records.read(Manifest, fields)
            if manifest.threads < 1:
                raise Wrong("is less than 1", "threads")
        except Wrong as wrong:
            raise Error(
                f"{where} has a damaged manifest ({wrong}); compile the model again"
            ) from None
        return manifest
