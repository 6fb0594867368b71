"""The pieces of an ARM device: server and libraries for a board, sysroot and QEMU to emulate one.

Three Debian packages of arm64 give the C and C++ libraries, TVM's aarch64 wheels the runtime
libraries, `rpc_server.c` the server. For 32 bits there is no TVM runtime: two packages of armhf
libraries and the runner of kernels (`kernel_runner`) are all. Nothing of the host is changed and
root is not needed.
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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from gq_tvm import cache
from gq_tvm.errors import Error
from gq_tvm.runtime.devices import kernel_runner
from gq_tvm.toolchain import debian
from gq_tvm.toolchain.zig import GLIBC, compile_native, ffi_headers

# Every model QEMU 7.2 has that our targets name; `max` is everything QEMU knows.
CPUS = ("cortex-a53", "cortex-a57", "cortex-a72", "cortex-a76", "neoverse-n1", "max")
#: The same of 32 bits.
CPUS_32 = ("cortex-a7", "cortex-a8", "cortex-a9", "max")

_WHEELS = ("apache-tvm", "apache-tvm-ffi")
LIBRARIES = ("libtvm_ffi.so", "libtvm_runtime.so", "libtvm_runtime_extra.so")  # in load order
_DEBS = ("libc6:arm64", "libgcc-s1:arm64", "libstdc++6:arm64")
_SYSTEM_LIBRARIES = (
    *("ld-linux-aarch64.so.1", "libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0"),
    *("libgcc_s.so.1", "libstdc++.so.6"),
)
# For any architecture, and so in the lists of packages we read anyway.
_DEBS_32 = ("libc6-armhf-cross", "libgcc-s1-armhf-cross")
_SYSTEM_LIBRARIES_32 = (
    *("ld-linux-armhf.so.3", "libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0"),
    "libgcc_s.so.1",
)
_SOURCE = Path(__file__).with_name("native") / "rpc_server.c"


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

    @property
    def qemu_32(self) -> Path:
        """QEMU's user-mode emulator of 32-bit ARM."""
        return self.folder / "qemu-arm"

    @property
    def sysroot_32(self) -> Path:
        """The C library of armhf, and the program that runs kernels on it."""
        return self.folder / "sysroot-armhf"

    def emulator(self, machine: str, cpu: str) -> list[str]:
        """Return what goes before a command line to run it on an emulated CPU.

        Args:
            machine: ``Target.machine`` of the program.
            cpu: Out of `CPUS`, or of `CPUS_32`.
        """
        qemu, sysroot = self.qemu, self.sysroot
        if machine == "armhf":
            qemu, sysroot = self.qemu_32, self.sysroot_32
        return [str(qemu), "-L", str(sysroot), "-cpu", cpu]

    def kernel_runner_32(self, cpu: str) -> list[str]:
        """Return the command line of `kernel_runner` on an emulated CPU out of `CPUS_32`."""
        return [*self.emulator("armhf", cpu), str(self.sysroot_32 / "kernel_runner")]

    def server(self, options: list[str], host: str, port: int) -> list[str]:
        """Return the command line of the RPC server, without QEMU before it."""
        libraries = [str(self.board / name) for name in LIBRARIES]
        return [str(self.board / "rpc_server"), *options, host, str(port), *libraries]

    def complete(self) -> bool:
        """Return whether every file is there with the size it had when it was set up."""
        try:
            sizes = json.loads((self.folder / "files.json").read_text())
            return all(qemu.exists() for qemu in (self.qemu, self.qemu_32)) and all(
                (self.folder / name).stat().st_size == size for name, size in sizes.items()
            )
        except (OSError, ValueError, AttributeError):
            return False

    def seal(self) -> None:
        """Write down the files `complete` looks for."""
        files = [*self.board.iterdir(), *self.sysroot.rglob("*.so*"), *self.sysroot_32.rglob("*")]
        sizes = {
            str(path.relative_to(self.folder)): path.stat().st_size
            for path in sorted(files)
            if path.is_file()
        }
        (self.folder / "files.json").write_text(json.dumps(sizes, indent=1))


def locate(cache_dir: str | os.PathLike[str] | None = None) -> Installation:
    """Return where this version's installation is, or would be, in the cache (`cache.root`)."""
    versions = [f"{name} {metadata.version(name)}" for name in _WHEELS]
    kept = (*_DEBS, *_SYSTEM_LIBRARIES, *_DEBS_32, *_SYSTEM_LIBRARIES_32)
    contents = "\n".join([*versions, *kept, GLIBC]).encode()
    sources = (_SOURCE, kernel_runner.SOURCE)
    key = hashlib.sha256(contents + b"".join(map(Path.read_bytes, sources))).hexdigest()[:12]
    return Installation(cache.root(cache_dir) / f"aarch64-{key}")


def build(made: Installation, progress: Callable[[str], object]) -> None:
    """Make an installation in an empty folder.

    Downloads about 120 MB, keeps about 30 MB. Raises `Error` if the machine does not allow it.
    """
    made.board.mkdir()
    with tempfile.TemporaryDirectory(dir=made.folder) as workspace:
        work = Path(workspace)
        progress("ARM device 1/5: C and C++ libraries of arm64 (3 MB)")
        native = debian.architecture()
        packages = debian.Packages(work / "apt", list(dict.fromkeys(["arm64", native])))
        packages.unpack(_DEBS, work / "root")
        _keep_libraries(work / "root", made.sysroot, _SYSTEM_LIBRARIES)
        progress("ARM device 2/5: TVM runtime for aarch64 (98 MB)")
        _download_runtime(work / "wheels", made.board)
        progress("ARM device 3/5: RPC server")
        include = ffi_headers()
        compile_native([_SOURCE], made.board / "rpc_server", "aarch64", include)
        progress("ARM device 4/5: C library of armhf (1 MB), runner of kernels")
        packages.unpack(_DEBS_32, work / "root-armhf")
        _keep_libraries(work / "root-armhf", made.sysroot_32, _SYSTEM_LIBRARIES_32)
        kernel_runner.build(made.sysroot_32 / "kernel_runner", "armhf")
        progress("ARM device 5/5: QEMU")
        _provide_qemu(packages, native, work / "qemu", made)
    made.seal()


def _keep_libraries(root: Path, sysroot: Path, names: Sequence[str]) -> None:
    """Copy what our programs load; the rest is locale data and documentation."""
    (sysroot / "lib").mkdir(parents=True)
    for name in names:
        found = next((path for path in sorted(root.rglob(name)) if path.is_file()), None)
        if found is None:
            raise Error(f"the Debian packages of {sysroot.name} lack {name}")
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


def _provide_qemu(packages: debian.Packages, native: str, work: Path, made: Installation) -> None:
    """Use the host's QEMU if it knows our CPUs, else a copy of Debian's static one."""
    wanted = {made.qemu: CPUS, made.qemu_32: CPUS_32}
    found = {link: _of_the_host(link.name, cpus) for link, cpus in wanted.items()}
    if all(found.values()):
        for link, program in found.items():
            link.symlink_to(str(program))
        return
    for package in ("qemu-user-static", "qemu-user"):  # Debian 13 moved the files to the second
        try:
            packages.unpack([f"{package}:{native}"], work)
        except Error:
            continue
        found = {
            link: _below(work / "usr" / "bin", link.name, cpus) for link, cpus in wanted.items()
        }
        if all(found.values()):
            for link, program in found.items():
                shutil.copy2(str(program), link)
            return
    raise Error("there is no QEMU for 64-bit and 32-bit ARM: `apt-get install qemu-user`")


def _of_the_host(name: str, cpus: Sequence[str]) -> Path | None:
    for one in (name, f"{name}-static"):
        found = shutil.which(one)
        if found and _knows(Path(found), cpus):
            return Path(found).absolute()
    return None


def _below(folder: Path, name: str, cpus: Sequence[str]) -> Path | None:
    candidates = (folder / f"{name}-static", folder / name)
    return next((one for one in candidates if one.is_file() and _knows(one, cpus)), None)


def _knows(qemu: Path, cpus: Sequence[str]) -> bool:
    try:
        done = subprocess.run([qemu, "-cpu", "help"], capture_output=True, text=True, check=False)
    except OSError:
        return False
    return set(cpus) <= set(done.stdout.split())
