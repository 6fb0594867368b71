"""The pieces of an ARM device: server and libraries for a board, sysroot and QEMU to emulate one.

Three Debian packages of arm64 give the C and C++ libraries, TVM's aarch64 wheels the runtime
libraries, `rpc_server.c` the server. Nothing of the host is changed and root is not needed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import tvm_ffi

from gq_tvm import cache, debian
from gq_tvm.errors import Error
from gq_tvm.targets.zig import GLIBC, compile_native

# Every model QEMU 7.2 has that our targets name; `max` is everything QEMU knows.
CPUS = ("cortex-a53", "cortex-a57", "cortex-a72", "cortex-a76", "neoverse-n1", "max")

_WHEELS = ("apache-tvm", "apache-tvm-ffi")
LIBRARIES = ("libtvm_ffi.so", "libtvm_runtime.so", "libtvm_runtime_extra.so")  # in load order
_DEBS = ("libc6:arm64", "libgcc-s1:arm64", "libstdc++6:arm64")
_SYSTEM_LIBRARIES = (
    *("ld-linux-aarch64.so.1", "libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0"),
    *("libgcc_s.so.1", "libstdc++.so.6"),
)
_SOURCE = Path(__file__).with_name("rpc_server.c")


@dataclass(frozen=True)
class Installation:
    """What `setup` made.

    Attributes:
        folder: The whole; moves as one.
    """

    folder: Path

    @property
    def qemu(self) -> Path:
        """QEMU's user-mode emulator of 64-bit ARM."""
        return self.folder / "qemu-aarch64"

    @property
    def sysroot(self) -> Path:
        """The C and C++ libraries of arm64 (unneeded on a board)."""
        return self.folder / "sysroot"

    @property
    def board(self) -> Path:
        """What a real board needs: ``rpc_server`` and the TVM runtime libraries."""
        return self.folder / "board"

    def server(self, options: list[str], host: str, port: int) -> list[str]:
        """Return the command line of the RPC server, without QEMU before it."""
        libraries = [str(self.board / name) for name in LIBRARIES]
        return [str(self.board / "rpc_server"), *options, host, str(port), *libraries]

    def complete(self) -> bool:
        """Return whether every file is there with the size it had when it was set up."""
        try:
            sizes = json.loads((self.folder / "files.json").read_text())
            return self.qemu.exists() and all(
                (self.folder / name).stat().st_size == size for name, size in sizes.items()
            )
        except (OSError, ValueError, AttributeError):
            return False

    def seal(self) -> None:
        """Write down the files `complete` looks for."""
        files = [*self.board.iterdir(), *self.sysroot.rglob("*.so*")]
        sizes = {
            str(path.relative_to(self.folder)): path.stat().st_size
            for path in sorted(files)
            if path.is_file()
        }
        (self.folder / "files.json").write_text(json.dumps(sizes, indent=1))


def locate(cache_dir: str | os.PathLike[str] | None = None) -> Installation:
    """Return where this version's installation is, or would be, in the cache (`cache.root`)."""
    versions = [f"{name} {metadata.version(name)}" for name in _WHEELS]
    contents = "\n".join([*versions, *_DEBS, GLIBC]).encode() + _SOURCE.read_bytes()
    key = hashlib.sha256(contents).hexdigest()[:12]
    return Installation(cache.root(cache_dir) / f"aarch64-{key}")


def build(made: Installation, progress: Callable[[str], object]) -> None:
    """Make an installation in an empty folder.

    Downloads about 115 MB, keeps about 20 MB. Raises `Error` if the machine does not allow it.
    """
    made.board.mkdir()
    with tempfile.TemporaryDirectory(dir=made.folder) as workspace:
        work = Path(workspace)
        progress("ARM device 1/4: C and C++ libraries of arm64 (3 MB)")
        native = debian.architecture()
        packages = debian.Packages(work / "apt", list(dict.fromkeys(["arm64", native])))
        packages.unpack(_DEBS, work / "root")
        _keep_libraries(work / "root", made.sysroot)
        progress("ARM device 2/4: TVM runtime for aarch64 (98 MB)")
        _download_runtime(work / "wheels", made.board)
        progress("ARM device 3/4: RPC server")
        include = [tvm_ffi.libinfo.find_include_path(), tvm_ffi.libinfo.find_dlpack_include_path()]
        compile_native([_SOURCE], made.board / "rpc_server", "aarch64", include)
        progress("ARM device 4/4: QEMU")
        _provide_qemu(packages, native, work / "qemu", made.qemu)
    made.seal()


def _keep_libraries(root: Path, sysroot: Path) -> None:
    """Copy what the server and the TVM runtime load; the rest is locale data and documentation."""
    (sysroot / "lib").mkdir(parents=True)
    for name in _SYSTEM_LIBRARIES:
        found = next((path for path in sorted(root.rglob(name)) if path.is_file()), None)
        if found is None:
            raise Error(f"the arm64 packages {', '.join(_DEBS)} lack {name}")
        shutil.copy2(found, sysroot / "lib" / name)


def _download_runtime(wheels: Path, board: Path) -> None:
    """Take the runtime libraries out of the aarch64 wheels of the TVM that is installed here."""
    wanted = [f"{name}=={metadata.version(name)}" for name in _WHEELS]
    glibc = ("2_28", "2_27", "2_24", "2_17")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--only-binary=:all:", "--implementation=cp", "--abi=abi3", "--abi=none"]
    command += [f"--platform=manylinux_{version}_aarch64" for version in glibc]
    command += ["--platform=manylinux2014_aarch64", f"--dest={wheels}", *wanted]
    command += [f"--abi=cp{sys.version_info.major}{sys.version_info.minor}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise Error(f"pip cannot download {' and '.join(wanted)} for aarch64 ({reason})")
    for wheel in wheels.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            for entry in archive.namelist():
                if Path(entry).name in LIBRARIES:
                    (board / Path(entry).name).write_bytes(archive.read(entry))
    missing = [name for name in LIBRARIES if not (board / name).exists()]
    if missing:
        raise Error(f"the aarch64 wheels of {' and '.join(wanted)} lack {', '.join(missing)}")


def _provide_qemu(packages: debian.Packages, native: str, work: Path, link: Path) -> None:
    """Use the host's QEMU if it knows our CPUs, else a copy of Debian's static one."""
    for name in ("qemu-aarch64", "qemu-aarch64-static"):
        found = shutil.which(name)
        if found and _knows_cpus(Path(found)):
            link.symlink_to(Path(found).absolute())
            return
    for package in ("qemu-user-static", "qemu-user"):  # Debian 13 moved the files to the second
        try:
            packages.unpack([f"{package}:{native}"], work)
        except Error:
            continue
        for name in ("qemu-aarch64-static", "qemu-aarch64"):
            candidate = work / "usr" / "bin" / name
            if candidate.is_file() and _knows_cpus(candidate):
                shutil.copy2(candidate, link)
                return
    raise Error("there is no QEMU for 64-bit ARM: install it with `apt-get install qemu-user`")


def _knows_cpus(qemu: Path) -> bool:
    try:
        done = subprocess.run([qemu, "-cpu", "help"], capture_output=True, text=True, check=False)
    except OSError:
        return False
    return set(CPUS) <= set(done.stdout.split())
