"""Sums over rows of what is computed of each number of a matrix, as likelihoods of matrices have them for each column.

PyTensor goes through one row after the other, and loads and stores the sums of all columns for each. Several rows at a
time do that once for all of them. Where rows are long, a processor does not foresee then what is read next, so they are
brought to the cache before, one after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Any

import numpy as np
import pytensor.tensor as pt
from llvmlite import ir
from numba import types
from pytensor.graph.basic import Apply
from pytensor.graph.op import Op
from pytensor.graph.rewriting.basic import node_rewriter
from pytensor.link.numba.dispatch.basic import numba_funcify_and_cache_key, numba_njit, register_funcify_and_cache_key
from pytensor.scalar.basic import Add
from pytensor.tensor.elemwise import CAReduce, Elemwise
from pytensor.tensor.subtensor import AdvancedSubtensor

from dvi.model.intrinsics import intrinsic

_ROWS = 4  # at a time
_LONG_BYTES = 400  # of a row, from which on rows are brought to the cache before: measured on 160 to 2400 bytes
_LINE_BYTES = 64
_VERSION = 1  # of what loops do, which caches have to tell apart

_LOOP = """
def column_sums({inputs}):
    n, m = {whole}.shape
    if {mismatch}:
        raise ValueError("matrices of mismatched shapes")
    {zeros}
    {constants}
    {brought}
    for start in range(0, n - n % {rows}, {rows}):
        for j in range(m):
            {of_column}
            {nothing}
            for i in range(start, start + {rows}):
                {results} = function({numbers})
                {add}
            {add_up}
    for i in range(n - n % {rows}, n):
        for j in range(m):
            {of_column}
            {results} = function({numbers})
            {add_last}
    return {outputs}
"""


class ColumnSums(Op):  # type: ignore[misc]
    """Sums over rows, or over rows and columns, of the results of a function of each number of matrices.

    Parameters
    ----------
    function : ScalarOp
    sums : tuple of (int, bool)
        For each sum, the number of the result, and whether it is summed over columns too.
    """

    __props__ = ("function", "sums")

    def __init__(self, function: Any, sums: tuple[tuple[int, bool], ...]) -> None:
        self.function = function
        self.sums = sums

    def make_node(self, *matrices: Any) -> Apply:
        n_columns = next((x.type.shape[1] for x in matrices if x.type.shape[1] not in (None, 1)), None)
        shapes = [() if total else (n_columns,) for _, total in self.sums]
        return Apply(self, list(matrices), [pt.tensor(dtype="float64", shape=shape) for shape in shapes])

    def perform(self, node: Apply, inputs: Sequence[Any], output_storage: list[list[Any]]) -> None:
        each = Elemwise(self.function).make_node(*node.inputs)
        results: list[list[Any]] = [[None] for _ in each.outputs]
        each.op.prepare_node(each, None, None, "py")
        each.op.perform(each, inputs, results)
        for storage, (i, total) in zip(output_storage, self.sums, strict=True):
            storage[0] = np.asarray(np.sum(results[i][0], axis=None if total else 0))

    def infer_shape(self, node: Apply, shapes: Sequence[Any]) -> list[Any]:
        m = next(shape[1] for x, shape in zip(node.inputs, shapes, strict=True) if not any(x.type.broadcastable))
        return [() if total else (m,) for _, total in self.sums]


def _source(broadcast: Sequence[tuple[bool, bool]], n_results: int, sums: Sequence[tuple[int, bool]]) -> str:
    """A loop in Python, for numba: of inputs that have one row, or one column, or more."""
    inputs = dict(enumerate(broadcast))
    places = {(False, False): "x{}[i, j]", (True, False): "c{}", (False, True): "x{}[i, 0]", (True, True): "c{}"}
    whole = [f"x{i}" for i, kind in inputs.items() if not any(kind)]
    lengths = [
        f"x{i}.shape[{axis}] != {n}" for i, kind in inputs.items() for axis, n in enumerate("nm") if not kind[axis]
    ]

    def lines(indent: int, found: Sequence[str]) -> str:
        return ("\n" + " " * indent).join(found)

    def each(form: str, total: str) -> list[str]:
        return [(total if summed else form).format(i=i, v=v) for i, (v, summed) in enumerate(sums)]

    return _LOOP.format(
        rows=_ROWS,
        inputs=", ".join(f"x{i}" for i in inputs),
        whole=whole[0],
        mismatch=" or ".join(lengths),
        zeros=lines(4, each("y{i} = np.zeros(m)", "y{i} = 0.0")),
        constants=lines(4, [f"c{i} = x{i}[0, 0]" for i, kind in inputs.items() if all(kind)]),
        brought=lines(4, [f"bring({x})" for x in whole]),
        of_column=lines(12, [f"c{i} = x{i}[0, j]" for i, kind in inputs.items() if kind == (True, False)]),
        nothing=lines(12, [f"s{i} = 0.0" for i in range(len(sums))]),
        results=", ".join(f"v{i}" for i in range(n_results)),
        numbers=", ".join(places[kind].format(i) for i, kind in inputs.items()),
        add=lines(16, [f"s{i} += v{v}" for i, (v, _) in enumerate(sums)]),
        add_up=lines(12, each("y{i}[j] += s{i}", "y{i} += s{i}")),
        add_last=lines(12, each("y{i}[j] += v{v}", "y{i} += v{v}")),
        outputs=", ".join(each("y{i}", "np.asarray(y{i})")),
    )


@intrinsic
def _look(typing_context: Any, address: Any) -> Any:
    """Read a byte, and make nothing of it."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.load_atomic(builder.inttoptr(arguments[0], ir.IntType(8).as_pointer()), "monotonic", 1)
        return context.get_dummy_value()

    return types.void(types.int64), generate


@numba_njit  # type: ignore[untyped-decorator]
def bring(x: Any) -> None:
    """Bring the rows of a block to the cache, if they are long."""
    if x.shape[1] * x.itemsize < _LONG_BYTES or not x.flags.c_contiguous:
        return
    first = np.int64(x.ctypes.data)
    for place in range(first, first + x.size * x.itemsize, _LINE_BYTES):
        _look(place)


@register_funcify_and_cache_key(ColumnSums)  # type: ignore[untyped-decorator]
def _column_sums(op: ColumnSums, node: Apply, **settings: Any) -> tuple[Any, str | None]:
    scalar = Elemwise(op.function).make_scalar_node(*node.inputs)
    function, key = numba_funcify_and_cache_key(op.function, node=scalar, **settings)
    source = _source([x.type.broadcastable for x in node.inputs], len(scalar.outputs), op.sums)
    names = {"np": np, "bring": bring, "function": function}
    exec(source, names)
    identity = repr((type(op).__qualname__, _VERSION, source, key))
    return numba_njit(names["column_sums"]), None if key is None else sha256(identity.encode()).hexdigest()


@node_rewriter([Elemwise])  # type: ignore[untyped-decorator]
def sums_of_columns(fgraph: Any, node: Any) -> Any:
    """A function of each number of matrices, of which sums are all that is used, to one operator."""
    if all(any(x.type.broadcastable) for x in node.inputs):
        return None
    if any(x.owner is not None and isinstance(x.owner.op, AdvancedSubtensor) for x in node.inputs):
        return None  # PyTensor looks up in the loop what is gathered
    clients = [(i, client) for i, output in enumerate(node.outputs) for client, _ in fgraph.clients[output]]
    if not all(_is_sum(client) for _, client in clients):
        return None
    made = ColumnSums(node.op.scalar_op, tuple((i, _axes(client) == (0, 1)) for i, client in clients))
    results = made(*node.inputs, return_list=True)
    return {client.outputs[0]: new for (_, client), new in zip(clients, results, strict=True)}


def _is_sum(node: Apply) -> bool:
    """Whether this is the sum over rows, or rows and columns, of a matrix, in double precision."""
    if not isinstance(node.op, CAReduce) or not isinstance(node.op.scalar_op, Add) or node.inputs[0].type.ndim != 2:
        return False
    dtypes = {node.inputs[0].type.dtype, node.outputs[0].type.dtype, str(np.dtype(node.op.acc_dtype))}
    return _axes(node) in {(0,), (0, 1)} and dtypes == {"float64"}


def _axes(node: Apply) -> tuple[int, ...]:
    axis = node.op.axis
    return tuple(range(node.inputs[0].type.ndim)) if axis is None else tuple(sorted(axis))
