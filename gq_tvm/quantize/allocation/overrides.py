"""The file of an allocation: bits by name of a weight."""

from __future__ import annotations

from pathlib import Path

from gq_tvm import reading
from gq_tvm.errors import Error


def read_overrides(path: str | Path) -> dict[str, int]:
    """The table ``[quantise.overrides]`` of a file, as ``Allocation.toml`` gives it.

    Returns:
        Bits by name of a weight, 32 for float.

    Raises:
        Error: it cannot be read, or holds something else.
    """
    try:
        values = reading.toml(reading.text(path))
    except ValueError as error:
        raise Error(f"{path} cannot be read as an allocation ({error}); allocate again") from None
    table = values.get("quantise")
    found = table.get("overrides") if isinstance(table, dict) else None
    if not isinstance(found, dict) or not found:
        raise Error(f"{path} has no table [quantise.overrides]; allocate again")
    for name, bits in found.items():
        if type(bits) is not int or bits not in (*range(1, 9), 32):
            raise Error(
                f"{path}: the bits of {name} must be 1 to 8 or 32, got {bits!r}; put a name with "
                "dots into quotes"
            )
    return found
