"""Files out of Debian packages, without root and without touching the host's package state."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from gq_tvm.errors import Error


def available() -> tuple[bool, str]:
    """Return whether packages can be had here, and otherwise one line that says why not."""
    missing = [
        tool for tool in ("apt-get", "apt-cache", "dpkg", "dpkg-deb") if not shutil.which(tool)
    ]
    if missing:
        return False, f"{', '.join(missing)} not found: use Debian or Ubuntu (or a container of it)"
    return True, ""


def _require() -> None:
    able, reason = available()
    if not able:
        raise Error(reason)


def architecture() -> str:
    """Return Debian's name of the host's architecture, e.g. ``amd64``.

    Raises `Error` if this is no Debian.
    """
    _require()
    return _run(["dpkg", "--print-architecture"]).strip()


class Packages:
    """The archive the host is configured for, read through package lists of our own.

    The host's sources, keys and proxies are used; its lists, cache and installed packages are not,
    so that any architecture the archive has can be asked for.
    """

    def __init__(self, workspace: Path, architectures: Sequence[str]) -> None:
        """Fetch the package lists (about 10 MB an architecture) into the folder `workspace`.

        Raises `Error` if this is no Debian or the archive cannot be reached.
        """
        _require()
        self._workspace = workspace
        for folder in ("state/lists/partial", "cache/archives/partial", "debs"):
            (workspace / folder).mkdir(parents=True, exist_ok=True)
        (workspace / "status").touch()
        self._options = []
        for name, value in {
            "APT::Architecture": architectures[0],
            "APT::Architectures": ",".join(architectures),
            "APT::Sandbox::User": "root",  # else root's apt-get complains about our folder
            "Acquire::Languages": "none",
            "Acquire::Retries": "3",
            "Dir::State": str(workspace / "state"),
            "Dir::State::status": str(workspace / "status"),
            "Dir::Cache": str(workspace / "cache"),
        }.items():
            self._options += ["-o", f"{name}={value}"]
        _run(["apt-get", *self._options, "-q", "update"])

    def search(self, pattern: str) -> list[str]:
        """Return the names of packages that a regular expression matches."""
        found = _run(["apt-cache", *self._options, "search", "--names-only", pattern])
        return [line.split()[0] for line in found.splitlines()]

    def closure(self, names: Sequence[str]) -> list[str]:
        """Return the packages `names` and all that they depend on, of the first architecture."""
        kinds = ("recommends", "suggests", "conflicts", "breaks", "replaces", "enhances")
        command = ["apt-cache", *self._options, "depends", "--recurse"]
        command += [f"--no-{kind}" for kind in kinds]
        listed = _run([*command, *names]).splitlines()
        # What depends stands at the margin; what is virtual is in <>, what is foreign has a colon.
        return sorted({line for line in listed if line[:1].isalnum() and ":" not in line})

    def unpack(self, names: Sequence[str], into: Path) -> None:
        """Download packages (``libc6:arm64``) and unpack their files under `into`.

        Dependencies are not followed. Raises `Error` if the archive lacks one.
        """
        debs = self._workspace / "debs"
        before = set(debs.iterdir())
        _run(["apt-get", *self._options, "-q", "download", *names], cwd=debs)
        into.mkdir(parents=True, exist_ok=True)
        for deb in sorted(set(debs.iterdir()) - before):
            _run(["dpkg-deb", "-x", str(deb), str(into)])


def _run(command: list[str], cwd: Path | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line.removeprefix("E: ") for line in done.stderr.splitlines() if line[:2] == "E:"]
        reason = (lines or done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise Error(f"{command[0]} failed ({reason}): check the network and the package sources")
    return done.stdout
