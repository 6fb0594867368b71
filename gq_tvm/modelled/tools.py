"""The tools a model of time is made with: QEMU with our plugin, llvm-mca and llvm-mc.

They are Debian's, with the libraries they load and the C libraries of each machine, run by the
loader that came with them: nothing of the host is used but its kernel, and nothing is changed.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gq_tvm import cache
from gq_tvm.errors import Error
from gq_tvm.runtime.devices import kernel_runner
from gq_tvm.toolchain import debian
from gq_tvm.toolchain.zig import GLIBC, compile_native

SETUP_COMMAND = "python -m gq_tvm.device --setup-only --modelled"

# By `Target.machine`: QEMU's name of it, Debian's name, and its dynamic loader.
MACHINES = {
    "aarch64": ("aarch64", "arm64", "ld-linux-aarch64.so.1"),
    "armhf": ("arm", "armhf", "ld-linux-armhf.so.3"),
    "x86_64": ("x86_64", "amd64", "ld-linux-x86-64.so.2"),
}
_LAYOUT = 1  # of the folders: another number sets them up anew
_GUEST_LIBRARIES = ("libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0")
_OLDEST_LLVM = 19  # the first with a usable model of Cortex-A55 and of dot products
_PLUGIN_VERSIONS = (1, 2, 3, 4, 5)  # of QEMU's interface; each QEMU takes some
_PLUGIN = Path(__file__).with_name("native") / "count_plugin.c"


@dataclass(frozen=True)
class Tools:
    """What `setup` made.

    Attributes:
        folder: The whole; moves as one.
    """

    folder: Path

    def command(self, name: str) -> list[str]:
        """How a program is run: ``llvm-mca``, ``llvm-mc`` or ``qemu-NAME`` of a machine."""
        loader = self.folder / "lib" / MACHINES[platform.machine()][2]
        libraries = str(self.folder / "lib")
        return [str(loader), "--library-path", libraries, str(self.folder / "bin" / name)]

    @property
    def plugin(self) -> Path:
        """`count_plugin.c`, compiled for this QEMU."""
        return self.folder / "count_plugin.so"

    @property
    def versions(self) -> dict[str, str]:
        """The versions of ``llvm`` and ``qemu``."""
        return json.loads((self.folder / "files.json").read_text())["versions"]

    def complete(self) -> bool:
        """Return whether every file is there with the size it had when it was set up."""
        return _complete(self.folder)


@dataclass(frozen=True)
class Guest:
    """A machine that QEMU stands for: its C library and the program that calls kernels.

    Attributes:
        tools: QEMU.
        machine: ``Target.machine``.
        folder: The whole; moves as one.
    """

    tools: Tools
    machine: str
    folder: Path

    @property
    def runner(self) -> Path:
        """The program that calls a kernel (`gq_tvm.runtime.devices.kernel_runner`)."""
        return self.folder / "kernel_runner"

    def emulator(self, cpu: str) -> list[str]:
        """The command line of QEMU, up to the program it runs or more options."""
        return [
            *self.tools.command(f"qemu-{MACHINES[self.machine][0]}"),
            "-L",
            str(self.folder),
            "-cpu",
            cpu,
        ]


def locate(cache_dir: str | os.PathLike[str] | None = None) -> Tools:
    """Return where this version's tools are, or would be, in the cache (`cache.root`)."""
    return Tools(cache.root(cache_dir) / f"modelled-{_digest(_PLUGIN)}")


def locate_guest(machine: str, cache_dir: str | os.PathLike[str] | None = None) -> Guest:
    """Return where the files of a machine are, or would be, in the cache."""
    name = f"modelled-{machine}-{_digest(kernel_runner.SOURCE)}"
    return Guest(locate(cache_dir), machine, cache.root(cache_dir) / name)


def available(
    machine: str = "aarch64", cache_dir: str | os.PathLike[str] | None = None
) -> tuple[bool, str]:
    """Return whether the tools are set up, and otherwise one line on how to get them."""
    guest = locate_guest(machine, cache_dir)
    if guest.tools.complete() and _complete(guest.folder):
        return True, ""
    able, reason = debian.available()
    if not able:
        return False, f"the tools of modelled times cannot be set up here: {reason}"
    return False, f"the tools of modelled times are not set up: run `{SETUP_COMMAND}`"


def setup(
    machine: str = "aarch64",
    cache_dir: str | os.PathLike[str] | None = None,
    progress: Callable[[str], object] = print,
) -> Guest:
    """Set up the tools and what a machine needs in the cache, as far as they are not there yet.

    Downloads about 105 MB and keeps 231 MB, and for each machine 13 MB and 3 MB. Raises
    `Error` if this host does not allow it; an interrupted call leaves nothing half done, and calls
    at the same time wait for each other.
    """
    if machine not in MACHINES:
        raise Error(f"there is no model of {machine}: choose one of {', '.join(MACHINES)}")
    guest = locate_guest(machine, cache_dir)
    cache.provide(guest.folder, lambda made: _build_guest(made, machine, progress), _complete)
    cache.provide(guest.tools.folder, lambda made: _build_tools(Tools(made), progress), _complete)
    return guest


def _digest(source: Path) -> str:
    facts = f"layout {_LAYOUT}, glibc {GLIBC}, llvm {_OLDEST_LLVM}\n".encode()
    return hashlib.sha256(facts + source.read_bytes()).hexdigest()[:12]


def _complete(folder: Path) -> bool:
    try:
        sizes = json.loads((folder / "files.json").read_text())["sizes"]
        return all((folder / name).stat().st_size == sizes[name] for name in sizes)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _seal(folder: Path, **about: object) -> None:
    """Write down the files `_complete` looks for."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    sizes = {str(path.relative_to(folder)): path.stat().st_size for path in files}
    (folder / "files.json").write_text(json.dumps({**about, "sizes": sizes}, indent=1))


def _build_guest(made: Path, machine: str, progress: Callable[[str], object]) -> None:
    progress(f"modelled times: C library and kernel runner for {machine} (13 MB)")
    _, architecture, loader = MACHINES[machine]
    with tempfile.TemporaryDirectory(dir=made) as workspace:
        native = debian.architecture()
        packages = debian.Packages(Path(workspace) / "apt", [native])
        # Of other architectures the package for cross compilers: it needs no lists of theirs.
        name = "libc6" if architecture == native else f"libc6-{architecture}-cross"
        packages.unpack([name], Path(workspace) / "root")
        _keep(Path(workspace) / "root", made / "lib", (loader, *_GUEST_LIBRARIES))
    (made / "lib64").symlink_to("lib")  # where x86 programs look for their loader
    kernel_runner.build(made / "kernel_runner", machine)
    _seal(made)


def _build_tools(made: Tools, progress: Callable[[str], object]) -> None:
    with tempfile.TemporaryDirectory(dir=made.folder) as workspace:
        work = Path(workspace)
        progress("modelled times: llvm-mca and QEMU (105 MB)")
        packages = debian.Packages(work / "apt", [debian.architecture()])
        llvm = _newest_llvm(packages)
        packages.unpack([f"llvm-{llvm}"], work / "root")
        packages.unpack(packages.closure([f"libllvm{llvm}", "qemu-user"]), work / "root")
        _keep_programs(made, work / "root", llvm)
    _build_plugin(made)
    programs = (("llvm", "llvm-mca"), ("qemu", "qemu-aarch64"))
    versions = {name: _version([*made.command(path), "--version"]) for name, path in programs}
    _seal(made.folder, versions=versions)


def _newest_llvm(packages: debian.Packages) -> int:
    found = [int(name.removeprefix("llvm-")) for name in packages.search(r"^llvm-[0-9]+$")]
    if not found or max(found) < _OLDEST_LLVM:
        raise Error(f"this Debian has no llvm of {_OLDEST_LLVM} or newer: use 12 or newer")
    return max(found)


def _keep_programs(made: Tools, root: Path, llvm: int) -> None:
    """Copy the programs, and of all libraries those that they load."""
    (made.folder / "bin").mkdir()
    programs = [(f"usr/lib/llvm-{llvm}/bin/{name}", name) for name in ("llvm-mca", "llvm-mc")]
    programs += [(f"usr/bin/qemu-{qemu}", f"qemu-{qemu}") for qemu, *_ in MACHINES.values()]
    for path, name in programs:
        shutil.copy2(root / path, made.folder / "bin" / name)
    loader = MACHINES[platform.machine()][2]
    _keep(root, made.folder / "lib", (loader,))
    folders = {str(path.parent) for path in root.rglob("*.so*")}
    for _, name in programs:
        command = [str(made.folder / "lib" / loader), "--library-path", ":".join(sorted(folders))]
        listed = _run([*command, "--list", str(made.folder / "bin" / name)])
        for library, path in re.findall(r"^\s*([^/\s]+) => (\S+)", listed, re.MULTILINE):
            if not Path(path).is_relative_to(root):
                raise Error(f"the packages of {name} lack {library}")
            if not (made.folder / "lib" / library).exists():
                shutil.copy2(path, made.folder / "lib" / library)


def _keep(root: Path, folder: Path, names: tuple[str, ...]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        found = next((path for path in sorted(root.rglob(name)) if path.is_file()), None)
        if found is None:
            raise Error(f"the C library's package lacks {name}")
        shutil.copy2(found, folder / name)


def _build_plugin(made: Tools) -> None:
    """Compile the plugin for the first version of the interface that this QEMU takes."""
    for version in _PLUGIN_VERSIONS:
        options = ["-shared", "-fPIC", "-fvisibility=hidden", f"-DAPI_VERSION={version}"]
        compile_native([_PLUGIN], made.plugin, platform.machine(), (), options)
        # QEMU loads plugins before the program, and says so if there is none.
        command = [*made.command("qemu-aarch64"), "-plugin", f"{made.plugin},code=/,out=/"]
        done = subprocess.run([*command, "/"], capture_output=True, text=True, check=False)
        if "plugin" not in done.stderr.lower():
            return
    raise Error("QEMU does not take our plugin: its plugin interface is of an unknown version")


def _version(command: list[str]) -> str:
    found = re.search(r"version (\d\S*)", _run(command))
    return found[1] if found else "unknown"


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise Error(f"{Path(command[-2]).name} does not run here ({reason})")
    return done.stdout
