"""Who computes and who reads the variables of a function."""

from __future__ import annotations

from tvm import relax

Values = dict[relax.Var, relax.Expr]
Users = dict[relax.Var, set[relax.Var]]


def values(function: relax.Function) -> Values:
    """What each variable is bound to, in order."""
    return dict(relax.analysis.get_var2val(function).items())


def users(function: relax.Function) -> Users:
    """The variables whose values read each variable; what is returned is read by itself too."""
    found: Users = {}
    for block in function.body.blocks:
        for binding in block.bindings:
            for read in relax.analysis.free_vars(binding.value):
                found.setdefault(read, set()).add(binding.var)
    for read in relax.analysis.free_vars(function.body.body):
        found.setdefault(read, set()).add(read)
    return found
