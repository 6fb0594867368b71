"""AVX-512 kernels on a CPU without AVX-512: their LLVM code, compiled for AVX2.

LLVM cuts vectors of 512 bits into what the CPU has; the few instructions that are asked for by name
are functions in C instead, as the manual defines them (Intel SDM vol. 2, VPERMB, VPERMPS, VPERMI2B,
VPERMI2PS, VPTERNLOGD, VPDPBUSD, VCVTPH2PS). What is tried so is our code, and not LLVM's choice of
instructions.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from gq_tvm import cache
from gq_tvm.toolchain.zig import compile_native

_BYTES, _WORDS, _FLOATS, _HALVES = "<64 x i8>", "<16 x i32>", "<16 x float>", "<16 x i16>"

#: The intrinsics by name: types of the result and the operands, and the body over their arrays.
_INTRINSICS = {
    "permvar.qi.512": (_BYTES, [_BYTES, _BYTES], "EACH(64) r[i] = a[b[i] & 63];"),
    "permvar.sf.512": (_FLOATS, [_FLOATS, _WORDS], "EACH(16) r[i] = a[b[i] & 15];"),
    "vpermi2var.qi.512": (
        _BYTES,
        [_BYTES, _BYTES, _BYTES],
        "EACH(64) r[i] = (b[i] & 64 ? c : a)[b[i] & 63];",
    ),
    "vpermi2var.ps.512": (
        _FLOATS,
        [_FLOATS, _WORDS, _FLOATS],
        "EACH(16) r[i] = (b[i] & 16 ? c : a)[b[i] & 15];",
    ),
    "pternlog.d.512": (
        _WORDS,
        [_WORDS, _WORDS, _WORDS, "i32"],
        "EACH(16) { r[i] = 0; for (int k = 0; k < 32; ++k)"
        " r[i] |= (d >> ((a[i] >> k & 1) << 2 | (b[i] >> k & 1) << 1 | (c[i] >> k & 1)) & 1u) << k;"
        " }",
    ),
    "vpdpbusd.512": (
        _WORDS,
        [_WORDS, _BYTES, _BYTES],
        "EACH(16) { r[i] = a[i]; for (int k = 4 * i; k < 4 * i + 4; ++k)"
        " r[i] += (uint32_t)(b[k] * (int8_t)c[k]); }",
    ),
    # TVM asks for it by name; its mask says all, its rounding does not matter.
    "mask.vcvtph2ps.512": (_FLOATS, [_HALVES, _FLOATS, "i16", "i32"], "EACH(16) r[i] = a[i];"),
}
_C_TYPES = {_BYTES: "uint8_t *", _WORDS: "uint32_t *", _FLOATS: "float *", _HALVES: "_Float16 *"}
_C_TYPES |= {"i16": "uint16_t ", "i32": "uint32_t "}
_FEATURES = re.compile(r'"target-cpu"="x86-64-v4" "target-features"="[^"]*"')


def export(built: Any, path: Path) -> None:
    """Link what `tvm.compile` made for x86-64-v4 into a library that runs on x86-64-v3.

    Raises:
        AssertionError: the code has an intrinsic that is not listed here.
    """
    code = _FEATURES.sub('"target-cpu"="x86-64-v3"', built.mod.inspect_source("ll"))
    code = re.sub(r"^declare .*@llvm\.x86\.avx512\..*$", "", code, flags=re.M)
    used = sorted(set(re.findall(r"@llvm\.x86\.avx512\.([\w.]+)", code)))
    assert set(used) <= _INTRINSICS.keys(), f"write {used} down in {__name__}"
    code = code.replace("@llvm.x86.avx512.", "@emulated.")
    code_file, c_file = path.with_suffix(".ll"), path.with_suffix(".c")
    code_file.write_text("\n".join([code, *map(_wrapper, used)]))
    c_file.write_text("\n".join([_HEAD, *map(_function, used)]))
    # TVM has optimised the code already.
    options = ["-shared", "-fPIC", "-O1", "-mcpu=x86_64_v3", "-Xclang", "-disable-llvm-passes"]
    compile_native([code_file, c_file], path, "x86_64", (), options, cache.root() / "zig")


_HEAD = "#include <stdint.h>\n#define EACH(n) for (int i = 0; i < n; ++i)"


def _function(name: str) -> str:
    """An intrinsic in C: its result's address, then its operands', immediates as they are."""
    result, operands, body = _INTRINSICS[name]
    types = [_C_TYPES[one] for one in (result, *operands)]
    taken = ", ".join(f"{kind}{letter}" for kind, letter in zip(types, "rabcd", strict=False))
    return f"void {_symbol(name)}({taken}) {{ {body} }}"


def _wrapper(name: str) -> str:
    """An intrinsic in LLVM's language, which passes vectors to the one in C by address."""
    result, operands, _ = _INTRINSICS[name]
    lines, passed = [], []
    for letter, kind in zip("abcd", operands, strict=False):
        if not kind.startswith("<"):
            passed.append(f"{kind} %{letter}")
            continue
        lines += [f"%p{letter} = alloca {kind}", f"store {kind} %{letter}, ptr %p{letter}"]
        passed.append(f"ptr %p{letter}")
    taken = ", ".join(f"{kind} %{letter}" for letter, kind in zip("abcd", operands, strict=False))
    symbol, given = _symbol(name), ", ".join(passed)
    kinds = ", ".join("ptr" if kind.startswith("<") else kind for kind in operands)
    return "\n".join(
        [
            f"declare void @{symbol}(ptr, {kinds})",
            f"define internal {result} @emulated.{name}({taken}) {{",
            f"%pr = alloca {result}",
            *lines,
            f"call void @{symbol}(ptr %pr, {given})",
            f"%r = load {result}, ptr %pr",
            f"ret {result} %r",
            "}",
        ]
    )


def _symbol(name: str) -> str:
    return "emulated_" + name.replace(".", "_")
