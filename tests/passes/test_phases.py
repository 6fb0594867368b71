from __future__ import annotations

import pytest
import tvm
from helpers.relax_modules import linear, module, var
from tvm import relax
from tvm.ir import IRModule

from gq_tvm import targets
from gq_tvm.errors import Error
from gq_tvm.passes import lower, operators
from gq_tvm.passes.parameters import Parameters
from gq_tvm.passes.phases import Phase, pipeline, run

NATIVE = targets.get("native")


def one_layer() -> IRModule:
    x = var("x", 2, 40)
    return module([x], lambda emit: linear(x, 600, 40, layer="out"))


def test_each_phase_is_written_without_the_weights(tmp_path):
    lower(one_layer(), NATIVE, "scalar", dump=tmp_path / "made")
    names = [path.name for path in sorted((tmp_path / "made").iterdir())]
    assert names == [
        "0-imported.py",
        "1-match.py",
        "2-products.py",
        "3-choose-and-pack.py",
        "4-kernels.py",
        "5-rest.py",
        "6-calls.py",
    ]
    texts = [(tmp_path / "made" / name).read_text() for name in names]
    assert "R.gq.codebook_linear" in texts[2]
    assert texts[3].startswith("# out: scalar")
    assert "R.gq.packed" in texts[3]
    assert "T.prim_func" in texts[4]
    assert max(map(len, texts)) < 600 * 40


def test_a_dump_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(Error, match=r"cannot be written .*; choose another --dump"):
        lower(one_layer(), NATIVE, "scalar", dump=tmp_path / "file")


def test_a_phase_that_leaves_its_work_undone_is_told():
    lazy = Phase("lazy", [], gone=(operators.LINEAR,))
    with pytest.raises(RuntimeError, match=r"phase 'lazy' left relax\.gq\.codebook_linear"):
        run([lazy], one_layer(), Parameters())


def test_a_module_that_is_not_well_formed_is_told():
    @tvm.transform.module_pass(opt_level=0)
    def loses_its_input(mod, _):
        function = mod["main"]
        return IRModule({"main": relax.Function([], function.body, function.ret_ty)})

    with pytest.raises(RuntimeError, match="phase 'wrong' left what is not well formed"):
        run([Phase("wrong", [loses_its_input])], one_layer(), Parameters())


def test_a_weight_without_its_array_is_told():
    parameters = Parameters()
    phases = pipeline(NATIVE, parameters, "scalar")
    packed = run(phases[:3], one_layer(), parameters)
    parameters.arrays["out.bias"] = parameters.arrays["out.bias"][:5]
    with pytest.raises(RuntimeError, match=r"left main without its out\.bias"):
        run([Phase("next", [])], packed, parameters)
