"""Files that users name, and the text in them: what is wrong with one is said in a sentence."""

from __future__ import annotations

import os
import stat
import tomllib
from pathlib import Path
from typing import Any, BinaryIO

from gq_tvm.errors import Error


def opened(path: str | Path, wanted: str = "a file") -> BinaryIO:
    """A file or a pipe, opened for reading in bytes.

    Args:
        path: of any bytes that a name may have, UTF-8 or not.
        wanted: what to name instead of a folder.

    Raises:
        Error: there is none of that name, it is a folder or a device, or may not be read.
    """
    try:
        file = open(path, "rb")  # noqa: SIM115  (the caller closes it)
    except (FileNotFoundError, ValueError):  # ValueError: no file can have such a name
        raise Error(f"{path}: there is no such file; check the path") from None
    except IsADirectoryError:
        raise Error(f"{path} is a folder; name {wanted} inside it") from None
    except OSError as error:
        raise Error(f"{path} cannot be read ({error.strerror}); check it") from None
    if stat.S_ISCHR(os.fstat(file.fileno()).st_mode):  # a terminal, or one that never ends
        file.close()
        raise Error(f"{path} is a device; name {wanted}, or a pipe")
    return file


def text(path: str | Path) -> str:
    """The text of a file in UTF-8, without a byte order mark.

    Raises Error as :func:`opened` does, and naming the line that is not in UTF-8.
    """
    with opened(path, "a text") as file:
        try:
            content = file.read()
        except OSError as error:
            raise Error(f"{path} cannot be read ({error.strerror}); check it") from None
    try:
        return content.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        number = content.count(b"\n", 0, error.start) + 1
        raise Error(f"{path}, line {number}, is not in UTF-8; save the file as UTF-8") from None


def lines(path: str | Path) -> list[str]:
    """The lines of a text, empty ones too, ended by a line feed alone or behind a carriage return.

    Others that Unicode calls ends of lines are characters of a text: a JSON string may hold them.
    """
    return [line.removesuffix("\r") for line in text(path).split("\n")]


def toml(content: str) -> dict[str, Any]:
    """The values of a text in TOML.

    Raises ValueError for what is none, and for what is nested too deeply.
    """
    try:
        return tomllib.loads(content)
    except RecursionError:
        raise ValueError("it has too many brackets within one another") from None
