"""The one exception users see, and the sentence on what is not installed."""

from __future__ import annotations

import sys

# What a package is called by pip where it is imported by another name.
_PIP_NAMES = {
    "tvm": "apache-tvm",
    "tvm_ffi": "apache-tvm-ffi",
    "kaldi_native_fbank": "kaldi-native-fbank",
    "xgboost": "xgboost-cpu",
}


class Error(Exception):
    """A refusal: its text is one sentence that says what is wrong and what to do.

    Commands print it after ``error:`` and leave with exit code 2.
    """


def missing_package(module: str | None) -> str | None:
    """What to do about a module that was not found; None if it is no package to be installed."""
    name = (module or "gq_tvm").partition(".")[0]
    if name == "gq_tvm" or name in sys.stdlib_module_names:
        return None
    if name == "torch":
        return (
            "this needs PyTorch, which is not installed: run "
            f"{sys.executable} -m pip install 'gq-tvm[torch]'"
        )
    return (
        f"{sys.executable} has no package {_PIP_NAMES.get(name, name)}: activate the environment "
        "that gq-tvm was installed in (. .venv/bin/activate), or install gq-tvm again"
    )
