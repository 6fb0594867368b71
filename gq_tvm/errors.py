"""The one exception users see, and the sentence on what is not installed."""

from __future__ import annotations

import sys

# What a package is called where it is imported by another name.
_NAMES = {
    "torch": "PyTorch",
    "tvm": "Apache TVM",
    "tvm_ffi": "apache-tvm-ffi",
    "kaldi_native_fbank": "kaldi-native-fbank",
    "yaml": "pyyaml",
    "xgboost": "xgboost-cpu",
}
# The extra of gq-tvm that a package comes with, where it is none of those that always do.
_EXTRAS = {
    **dict.fromkeys(
        ("tvm", "tvm_ffi", "ziglang", "onnx", "xgboost", "cloudpickle", "psutil", "tornado"),
        "compile",
    ),
    "matplotlib": "picture",
    **dict.fromkeys(("onnxscript", "onnx_ir"), "onnx"),
    **dict.fromkeys(("gguf", "yaml"), "gguf"),
    **dict.fromkeys(("torch", "safetensors", "kaldi_native_fbank", "jiwer"), "train"),
}


class Error(Exception):
    """A refusal: its text is one sentence that says what is wrong and what to do.

    Commands print it after ``error:`` and leave with exit code 2.
    """


def sentence(refusal: object) -> str:
    """A refusal as commands print it: names in a file may have characters that nothing shows."""
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in str(refusal))


def missing_package(module: str | None) -> str | None:
    """What to do about a module that was not found; None if it is no package to be installed."""
    name = (module or "gq_tvm").partition(".")[0]
    if name == "gq_tvm" or name in sys.stdlib_module_names:
        return None
    if name in _EXTRAS:
        return (
            f"this needs {_NAMES.get(name, name)}, which is not installed: run "
            f"{sys.executable} -m pip install 'gq-tvm[{_EXTRAS[name]}]'"
        )
    return (
        f"{sys.executable} has no package {name}: activate the environment that gq-tvm was "
        "installed in (. .venv/bin/activate), or install gq-tvm again"
    )
