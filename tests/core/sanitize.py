"""The C++ runtime of bundles under sanitizers: damaged plans, damaged files, several threads.

    make sanitize
    python tests/core/sanitize.py --times 10

AddressSanitizer and UndefinedBehaviorSanitizer watch what plans.cc and files.cc feed it, the same
from run to run, and altered further where it led to new code; ThreadSanitizer watches threads.cc.
They are those of GCC on this machine. All is left in build/sanitize.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import soundfile

import gq_tvm
from gq_tvm import deploy, targets
from gq_tvm.build import build
from gq_tvm.command import command, positive
from gq_tvm.core.compiled import CORE, SOURCES
from gq_tvm.errors import Error
from gq_tvm.plan import text
from gq_tvm.runtime.artefact.folder import KERNELS, PLAN, WEIGHTS
from gq_tvm.toolchain.zig import ffi_headers

HERE = Path(__file__).parent
FOLDER = HERE.parents[1] / "build" / "sanitize"
DIGITS = Path(gq_tvm.__file__).parent / "models" / "digits" / "digits.pt2"

COMPILER = "g++"
INCLUDE = [f"-I{place}" for place in (SOURCES, *ffi_headers())]
OPTIONS = ("-std=c++17", "-O1", "-g", "-fPIC", "-pthread", "-D_FILE_OFFSET_BITS=64", *INCLUDE)
LIBRARIES = ("-pthread", "-ldl")
MEMORY = ("-fsanitize=address,undefined,float-cast-overflow", "-fno-sanitize-recover=all")
THREADS = ("-fsanitize=thread",)
STEPS = "-fsanitize-coverage=trace-pc"  # coverage.h

# Memory that runs out is refused as it is anywhere, and at the same size on every machine.
SETTINGS = {
    "ASAN_OPTIONS": "allocator_may_return_null=1:max_allocation_size_mb=256",
    "UBSAN_OPTIONS": "print_stacktrace=1",
    "TSAN_OPTIONS": f"halt_on_error=1:suppressions='{HERE / 'threads.supp'}'",
}
# Of WAV files; the last three are refused.
INTEGERS, FLOATS = ("PCM_U8", "PCM_16", "PCM_24", "PCM_32"), ("FLOAT", "DOUBLE")
KINDS = (*INTEGERS, *FLOATS, "ULAW", "ALAW", "IMA_ADPCM", "MS_ADPCM", "GSM610")

WORKERS = 2
PLANS, FILES = 6000, 8000  # seeds


def compiled(sources: Sequence[Path], options: Sequence[str]) -> list[str]:
    """The object files of C++ files, compiled side by side."""
    folder = FOLDER / options[0].rpartition("=")[2]
    folder.mkdir(exist_ok=True)

    def compile_one(source: Path) -> str:
        result = folder / f"{source.stem}.o"
        subprocess.run([COMPILER, *OPTIONS, *options, "-c", source, "-o", result], check=True)
        return str(result)

    with ThreadPoolExecutor(WORKERS) as pool:
        return list(pool.map(compile_one, sources))


def linked(name: str, objects: Sequence[str], options: Sequence[str]) -> Path:
    """A program of this folder and of what it drives."""
    program = FOLDER / name
    own = compiled([HERE / f"{name}.cc"], options)
    subprocess.run([COMPILER, *options, *own, *objects, *LIBRARIES, "-o", program], check=True)
    return program


def line(*words: object) -> list[str]:
    """The command that runs a program under its sanitizer."""
    return ["env", *(f"{name}={value}" for name, value in SETTINGS.items()), *map(str, words)]


def watched(*words: object) -> subprocess.CompletedProcess[str]:
    """A program that ran; what it said is shown where it failed."""
    done = subprocess.run(line(*words), capture_output=True, text=True, check=False)
    if done.returncode:
        sys.stderr.write(done.stdout[-2000:] + done.stderr[:10000])
    return done


def sweep(program: Path, seeds: int, rest: Sequence[Path]) -> None:
    """Run the cases of so many seeds, a part of them in each of some processes.

    Raises:
        Error: a case failed; says its seed.
    """

    def part(number: int) -> str:
        work = FOLDER / f"{program.name}-{number}"
        work.mkdir()
        first, last = seeds * number // WORKERS, seeds * (number + 1) // WORKERS
        done = watched(program, work, first, last, *rest)
        if not done.returncode:
            return done.stdout.strip()
        seed = int((work / "seed").read_text())
        # From the first: what led to new code was altered further.
        again = shlex.join(line(program, "DIR", first, seed + 1, *rest))
        raise Error(
            f"{program.name}.cc fails with the seed {seed} (exit code {done.returncode}); what it "
            f"was given is in {work}; again, in an empty folder DIR: {again}"
        )

    with ThreadPoolExecutor(WORKERS) as pool:
        for said in pool.map(part, range(WORKERS)):
            print(said, flush=True)


def samples() -> list[Path]:
    """Recordings and arrays of every kind that is read, and recordings of some that are not."""
    folder = FOLDER / "samples"
    folder.mkdir()
    sound = np.random.default_rng(0).uniform(-1, 1, (300, 2))
    for kind in KINDS:
        soundfile.write(folder / f"{kind}.wav", sound[:, 0], 16000, kind)
    for form in ("WAVEX", "RF64"):
        soundfile.write(folder / f"{form}.wav", sound, 11025, "PCM_16", format=form)
    for dtype in ("float32", "float64", "int64", "uint8", "bool"):
        np.save(folder / f"{dtype}.npy", np.ones((3, 1, 5), dtype))
    np.save(folder / "scalar.npy", np.float32(1))
    return sorted(folder.iterdir())


# A bundle of turn.cc.
TURN = """\
function turn 0 1
value 0 input float32 0 x 64
value 1 temporary float32 0 - 64
value 2 output float32 0 - 64
inputs 0
outputs 2
call turn - - 0 >1 >2
"""


def turn() -> Path:
    """A bundle whose one kernel runs on as many threads as it is opened with."""
    folder = FOLDER / "turn"
    folder.mkdir()
    (folder / WEIGHTS).touch()
    objects = compiled([HERE / "turn.cc"], THREADS)
    subprocess.run([COMPILER, *THREADS, "-shared", *objects, "-o", folder / KERNELS], check=True)
    lines = [text.FIRST_LINE, f"machine {targets.get('native').machine}", "features"]
    for kind, file in (("weights", WEIGHTS), ("kernels", KERNELS)):
        content = text.content(folder / file)
        lines.append(f"{kind} {content.size} {content.crc:08x}")
    (folder / PLAN).write_bytes(text.sealed("\n".join([*lines, TURN])))
    return folder


def able(options: Sequence[str]) -> bool:
    """Whether programs can be compiled with a sanitizer and run with it."""
    probe = FOLDER / "probe"
    compiling = [COMPILER, *options, "-x", "c++", "-", "-o", str(probe)]
    try:
        subprocess.run(compiling, input="int main() {}", text=True, check=True, capture_output=True)
        subprocess.run([probe], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return False
    return True


@command
def main(argv: list[str] | None = None) -> int:
    """Build the programs and a bundle, and run all."""
    parser = argparse.ArgumentParser(
        prog="sanitize.py", description="The C++ runtime of bundles under sanitizers."
    )
    parser.add_argument("--times", type=positive, default=1, help="as many files and plans")
    times = parser.parse_args(argv).times
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    if not able(MEMORY) or not able(THREADS):
        reason = f"{COMPILER} with its sanitizers is not there; apt-get install g++"
        if os.environ.get("CI"):
            raise Error(reason)
        print(f"Skipped: bundles under sanitizers; {reason}")
        return 0
    print("Compiling the runtime of bundles with sanitizers", flush=True)
    core = [SOURCES / name for name in CORE]
    readers = [SOURCES / name for name in ("program/npy.cc", "audio/resample.cc", "audio/wav.cc")]
    objects = compiled([*core, *readers], (*MEMORY, STEPS))
    plans, files = (linked(name, objects, MEMORY) for name in ("plans", "files"))
    threads = linked("threads", compiled([*core, SOURCES / "interface/api.cc"], THREADS), THREADS)
    bundle = FOLDER / "bundle"
    deploy.write(build(DIGITS, threads=2), bundle)
    sweep(files, times * FILES, samples())
    sweep(plans, times * PLANS, [bundle])
    bundles = bundle, turn()
    done = watched(threads, *bundles)
    if done.returncode:
        again = shlex.join(line(threads, *bundles))
        raise Error(f"threads.cc fails (exit code {done.returncode}); again: {again}")
    print(done.stdout.strip())
    return 0


if __name__ == "__main__":
    sys.exit(main())
