"""Exponentials and logarithms of several rows at once, from the C library of the machine.

A loop over rows whose likelihood has an exponential waits for it: 4 ns a row, one after the other. glibc has such
functions of four and of eight numbers in ``libmvec``, to 4 units in the last place, which take a quarter of that. LLVM
puts them in the place of calls of the function of one number where a loop can do several rows at once, if it is told
their names.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from llvmlite import binding, ir
from numba import types
from numba.core.registry import cpu_target
from pytensor.graph.rewriting.basic import node_rewriter
from pytensor.link.numba.dispatch.basic import numba_njit, register_funcify_and_cache_key
from pytensor.link.numba.dispatch.scalar import scalar_op_cache_key
from pytensor.scalar import basic as scalar
from pytensor.scalar import math as scalar_math
from pytensor.tensor.elemwise import Elemwise

from dvi.model.intrinsics import intrinsic, select

_LIBRARY = "libmvec.so.1"
_WIDTHS = {"avx2": ("d", 4), "avx512f": ("e", 8)}  # feature of a processor, letter and numbers of the functions for it
_USED = "llvm.compiler.used"  # what LLVM keeps although nothing calls it yet


@cache
def variants(name: str) -> tuple[tuple[str, int], ...]:
    """Names of the functions of several numbers that this machine has of one of the C library, and of how many."""
    try:
        binding.load_library_permanently(_LIBRARY)
    except RuntimeError:
        return ()
    # Of the processor that numba compiles for, which may be told to leave out what this one has.
    features = cpu_target.target_context.codegen().magic_tuple()[2].split(",")
    found = [(f"_ZGV{letter}N{n}v_{name}", n) for feature, (letter, n) in _WIDTHS.items() if f"+{feature}" in features]
    return tuple((symbol, n) for symbol, n in found if binding.address_of_symbol(symbol))


def _function(name: str) -> Any:
    """A function of the C library, of one number, of which LLVM knows those of several."""

    @intrinsic
    def call(typing_context: Any, x: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.call(_declared(builder.module, name), arguments)

        return types.float64(types.float64), generate

    return call


def _declared(module: Any, name: str) -> Any:
    if name in module.globals:
        return module.globals[name]
    number, byte = ir.DoubleType(), ir.IntType(8).as_pointer()
    function = ir.Function(module, ir.FunctionType(number, [number]), name)
    for attribute in ("nounwind", "readnone"):
        function.attributes.add(attribute)
    others, names = [], []
    for symbol, n in variants(name):
        vector = ir.VectorType(number, n)
        others.append(ir.Function(module, ir.FunctionType(vector, [vector]), symbol))
        names.append(f"_ZGV_LLVM_N{n}v_{name}({symbol})")
    used = module.globals.get(_USED)
    kept = [*([] if used is None else used.initializer.constant), *(other.bitcast(byte) for other in others)]
    array = ir.ArrayType(byte, len(kept))
    if used is None:
        used = ir.GlobalVariable(module, array, _USED)
        used.linkage, used.section = "appending", "llvm.metadata"
    used.type, used.value_type, used.initializer = array.as_pointer(), array, ir.Constant(array, kept)
    set.add(function.attributes, f'"vector-function-abi-variant"="{",".join(names)}"')  # which llvmlite has no word for
    return function


_EXP, _LOG, _LOG1P, _EXPM1, _TANH = map(_function, ("exp", "log", "log1p", "expm1", "tanh"))


class Exp(scalar.Exp):  # type: ignore[misc]
    """The exponential."""


class Log(scalar.Log):  # type: ignore[misc]
    """The natural logarithm."""


class Log1p(scalar.Log1p):  # type: ignore[misc]
    """``log(1 + x)``."""


class Expm1(scalar.Expm1):  # type: ignore[misc]
    """``exp(x) - 1``."""


class Tanh(scalar.Tanh):  # type: ignore[misc]
    """The hyperbolic tangent."""


class Sigmoid(scalar_math.Sigmoid):  # type: ignore[misc]
    """``1 / (1 + exp(-x))``."""


class Softplus(scalar_math.Softplus):  # type: ignore[misc]
    """``log(1 + exp(x))``, without branches, which would keep a loop from doing several rows at once."""


class Select(scalar.Switch):  # type: ignore[misc]
    """``x if condition else y``, without a branch, which would keep a loop from doing several rows at once."""


def _exp(x: Any) -> Any:
    return _EXP(x)


def _log(x: Any) -> Any:
    return _LOG(x)


def _log1p(x: Any) -> Any:
    return _LOG1P(x)


def _expm1(x: Any) -> Any:
    return _EXPM1(x)


def _tanh(x: Any) -> Any:
    return _TANH(x)


def _sigmoid(x: Any) -> Any:
    return 1.0 / (1.0 + _EXP(-x))


def _softplus(x: Any) -> Any:
    return max(0.0, x) + _LOG1P(_EXP(-abs(x)))


def _select(condition: Any, x: Any, y: Any) -> Any:
    return select(condition != 0, float(x), float(y))


# Of each operator: what takes its place, its loop body, and the functions of the C library that are in that.
_LOOPS: dict[type[Any], tuple[type[Any], Callable[..., Any], tuple[str, ...]]] = {
    scalar.Exp: (Exp, _exp, ("exp",)),
    scalar.Log: (Log, _log, ("log",)),
    scalar.Log1p: (Log1p, _log1p, ("log1p",)),
    scalar.Expm1: (Expm1, _expm1, ("expm1",)),
    scalar.Tanh: (Tanh, _tanh, ("tanh",)),
    scalar_math.Sigmoid: (Sigmoid, _sigmoid, ("exp",)),
    scalar_math.Softplus: (Softplus, _softplus, ("exp", "log1p")),
    scalar.Switch: (Select, _select, ()),
}


def _register(kind: type[Any], function: Callable[..., Any]) -> None:
    @register_funcify_and_cache_key(kind)  # type: ignore[untyped-decorator]
    def funcify(op: Any, node: Any, **settings: Any) -> tuple[Any, str]:
        return numba_njit(function, error_model="numpy"), scalar_op_cache_key(op, cache_version=2)


for _kind, _loop, _ in _LOOPS.values():
    _register(_kind, _loop)


@node_rewriter([Elemwise])  # type: ignore[untyped-decorator]
def of_several_rows(fgraph: Any, node: Any) -> Any:
    """A function in double precision to that of which there is one of several numbers."""
    found = _LOOPS.get(type(node.op.scalar_op))
    if found is None or node.outputs[0].type.dtype != "float64":
        return None
    kind, _, names = found
    if not all(map(variants, names)):
        return None
    given = node.inputs if kind is Select else [node.inputs[0].astype("float64")]
    return [Elemwise(kind(node.op.scalar_op.output_types_preference))(*given)]
