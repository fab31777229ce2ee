"""Minibatch variables: what they take, what they hold, and how their data are replaced."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import cloudpickle
import numpy as np
import pymc as pm
import pytest
from pytensor.compile.sharedvalue import SharedVariable

import dvi
from dvi.data.picks import Picks
from dvi.errors import ArgumentError, ArgumentTypeError, DataError
from dvi.model.batch import MinibatchVariable, binding
from dvi.model.batch_size import Taken, taken
from dvi.model.graph import split

RNG = np.random.default_rng(3)
X, Y = RNG.normal(size=(60, 3)), RNG.normal(size=60)
CUBE = RNG.normal(size=(20, 20, 20))
WIDE = RNG.normal(size=(10, 4, 5, 6, 7))


@pytest.mark.parametrize(
    ("data", "batch_size", "shape"),
    [
        (CUBE, 10, (10, 20, 20)),
        (CUBE, [10], (10, 20, 20)),
        (CUBE, [10, 10], (10, 10, 20)),
        (CUBE, (10, np.int64(10)), (10, 10, 20)),
        (CUBE, np.array([10, 10]), (10, 10, 20)),
        (CUBE, [2, None, 15], (2, 20, 15)),
        (CUBE, [None, 3], (20, 3, 20)),
        (CUBE, [(10, 42), (4, 42)], (10, 4, 20)),
        (WIDE, [2, ..., 3], (2, 4, 5, 6, 3)),
        (WIDE, [2, 3, ..., 3], (2, 3, 5, 6, 3)),
        (WIDE, [..., 3], (10, 4, 5, 6, 3)),
        (WIDE, [2, 4, 5, 6, 7], (2, 4, 5, 6, 7)),
        (WIDE, [2, ...], (2, 4, 5, 6, 7)),
    ],
)
def test_every_form_of_batch_size_gives_the_shape_it_names(
    data: np.ndarray, batch_size: Any, shape: tuple[int, ...]
) -> None:
    x = dvi.Minibatch(data, batch_size=batch_size)
    assert x.eval().shape == shape
    assert x.type.shape == (None, *shape[1:])
    np.testing.assert_array_equal(x.eval(), data[tuple(map(slice, shape))])


def test_seeds_are_those_of_the_axis_or_common_ones() -> None:
    shapes = [(20, 20, 20), (20, 20), (20,)]
    assert taken([5, (4, 42), 3], shapes) == Taken(5, None, Picks((1, 2), (20, 20), (4, 3), (42, None)))
    assert taken([(5, 1), (4, 42), 3], shapes, 7) == Taken(5, 1, Picks((1, 2), (20, 20), (4, 3), (42, 7)))
    assert taken([None, 20, 3], shapes, 7) == Taken(None, 7, Picks((2,), (20,), (3,), (7,)))
    assert taken(5, shapes, 7) == Taken(5, 7, Picks())


@pytest.mark.parametrize(
    ("batch_size", "error", "message"),
    [
        (0, ArgumentError, "batch_size=0 is out of range.*60 rows"),
        (61, ArgumentError, "batch_size=61 is out of range"),
        (True, ArgumentTypeError, "of type bool"),
        (2.0, ArgumentTypeError, "of type float"),
        ("10", ArgumentTypeError, "of type str"),
        (None, ArgumentTypeError, "of type NoneType"),
        ([61, 2], ArgumentError, "batch_size=61 is out of range"),
        ([10, 4], ArgumentError, "asks for 4 of the 3 elements along axis 1"),
        ([10, 0], ArgumentError, "asks for 0 of the 3 elements along axis 1"),
        ([10, 2, 2], ArgumentError, "names 3 axes; give 1 to 2"),
        ([10, 2, ..., 2], ArgumentError, "names 3 axes; give 1 to 2"),
        ([], ArgumentError, "names 0 axes"),
        ([..., 2, ...], ArgumentError, "has 2 entries"),
        ([10, 2.0], ArgumentTypeError, r"has 2\.0 for axis 1"),
        ([10, "2"], ArgumentTypeError, "has '2' for axis 1"),
        ([10, (2, 3, 4)], ArgumentTypeError, r"has \(2, 3, 4\) for axis 1"),
        ([10, (2, "a")], ArgumentTypeError, "the seed of axis 1 in batch_size='a'"),
        ([10, (2, -1)], ArgumentError, "the seed of axis 1 in batch_size=-1 is negative"),
    ],
)
def test_batch_sizes_that_do_not_fit_are_refused(batch_size: Any, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        dvi.Minibatch(X, Y, batch_size=batch_size)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"random_seed": "a"}, ArgumentTypeError, "random_seed='a'"),
        ({"random_seed": -1}, ArgumentError, "random_seed=-1 is negative"),
        ({"dtype": ["f4"]}, ArgumentError, "dtype has 1 entries for 2 arrays"),
        ({"update_shared_f": lambda: X}, ArgumentError, "one value for 2 arrays"),
        ({"update_shared_f": [None, 3]}, ArgumentTypeError, "update_shared_f=3"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, Any], error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        dvi.Minibatch(X, Y, batch_size=10, **settings)


def test_picked_axes_of_different_lengths_are_refused() -> None:
    with pytest.raises(ArgumentError, match=r"axis 1, along which the arrays have \[3, 4\] elements"):
        dvi.Minibatch(X, np.ones((60, 4)), batch_size=[10, 2])
    assert dvi.Minibatch(X, np.ones((60, 4)), batch_size=[10, None])[1].eval().shape == (10, 4)


def test_arrays_are_cast_to_the_dtypes_asked_for() -> None:
    x, i = dvi.Minibatch(X, np.arange(60.0), batch_size=10, dtype=["float32", "int16"], name="data")
    assert (x.dtype, i.dtype, x.name, i.name) == ("float32", "int16", "data.0", "data.1")
    assert [r.dtype.name for r in binding(x).batch.source.readers] == ["float32", "int16"]
    assert {v.dtype for v in dvi.Minibatch(X, Y, batch_size=10, dtype="float32")} == {"float32"}


def test_variables_are_shared_variables_of_pytensor() -> None:
    x, y = dvi.Minibatch(X, Y, batch_size=10)
    assert isinstance(x, MinibatchVariable) and isinstance(x, SharedVariable)
    np.testing.assert_array_equal((x.sum(axis=1) + y).eval(), X[:10].sum(1) + Y[:10])
    with pm.Model():
        assert pm.draw(pm.Normal("y", x[:, 0], 1e-9, observed=y)).shape == (10,)
    assert x.minibatch is x


@pytest.mark.parametrize("copied", ["clone", "copy", "deepcopy", "pickle", "cloudpickle"])
def test_copies_stay_bound_to_their_batch(copied: str) -> None:
    x, y = dvi.Minibatch(X, Y, batch_size=10)
    if copied == "clone":
        pair = (x.clone(), y.clone())
    elif copied in ("copy", "deepcopy"):
        pair = getattr(copy, copied)((x, y))
    else:
        pair = pickle.loads((pickle if copied == "pickle" else cloudpickle).dumps((x, y)))
    assert all(type(v) is MinibatchVariable for v in pair)
    assert [binding(v).column for v in pair] == [0, 1]
    assert binding(pair[0]).batch is binding(pair[1]).batch
    assert binding(pair[0]).batch.names == ("minibatch.0", "minibatch.1")
    np.testing.assert_array_equal(pair[0].eval(), X[:10])


def test_pickles_hold_no_data() -> None:
    rows = np.ones((200_000, 4))
    x, y = dvi.Minibatch(rows, rows[:, 0], batch_size=[10, 2])
    assert len(pickle.dumps((x, y))) < 20_000
    with pm.Model() as model:
        pm.Normal("y", x.sum(axis=1) * pm.Normal("b"), 1.0, observed=y)
    with pytest.warns(dvi.errors.DviWarning, match="2 of the 4 elements"):
        term = split(model).terms[0]
    assert len(cloudpickle.dumps((term.batch.source, term.batch.picks, term.program))) < 60_000


def test_set_value_replaces_what_the_next_split_reads() -> None:
    x, y = dvi.Minibatch(X, Y, batch_size=10)
    with pm.Model() as model:
        pm.Normal("y", x @ pm.Normal("b", shape=3), 1.0, observed=y)
    before = split(model)
    assert not before.stale
    new = RNG.normal(size=(25, 3))
    x.set_value(new)
    assert before.stale
    assert (binding(x).batch.version, binding(y).batch.version) == (1, 1)
    np.testing.assert_array_equal(before.terms[0].batch.source.head(60)[0], X)  # what runs is not disturbed
    with pytest.raises(DataError, match=r"'minibatch.0'.*has 25.*'minibatch.1'.*has 60"):
        split(model)
    y.set_value(new[:, 0].astype(np.float32))
    after = split(model)
    assert not after.stale
    assert after.terms[0].batch.source.n_rows == 25
    np.testing.assert_array_equal(after.terms[0].batch.source.head(25)[0], new)
    np.testing.assert_array_equal(x.get_value(), new[:10])
    np.testing.assert_array_equal((2 * x).eval(), 2 * new[:10])


def test_set_value_keeps_the_part_that_a_step_takes() -> None:
    x = dvi.Minibatch(CUBE, batch_size=[None, 5])
    x.set_value(CUBE[:7] + 1.0)
    np.testing.assert_array_equal(x.get_value(), CUBE[:7, :5] + 1.0)
    assert binding(x).batch.batch_size == 7
    np.testing.assert_array_equal(x.shared.get_value(), CUBE[:7] + 1.0)
    small = dvi.Minibatch(Y, batch_size=20)
    small.set_value(Y[:5])
    assert small.eval().shape == (5,)
    with pytest.raises(ArgumentError, match="batch_size=20 is out of range"):
        _ = binding(small).batch.batch_size


def test_set_value_copies_unless_it_may_borrow() -> None:
    y = dvi.Minibatch(Y, batch_size=20)
    mine = np.zeros(60)
    for borrow in (False, True):
        mine[:] = 0
        y.set_value(mine, borrow=borrow)
        mine[:] = 1
        assert y.shared.get_value()[0] == float(borrow)


@pytest.mark.parametrize(
    ("value", "message"),
    [(np.ones((9, 4)), r"rows of shape \(4,\)"), (np.ones(9), r"rows of shape \(\)"), ([["a"] * 3], "dtype <U1")],
)
def test_set_value_refuses_other_rows(value: Any, message: str) -> None:
    x = dvi.Minibatch(X, batch_size=10)
    with pytest.raises(DataError, match=message):
        x.set_value(value)
    assert binding(x).batch.version == 0


def test_shared_holds_all_rows() -> None:
    y = dvi.Minibatch(Y, batch_size=10)
    np.testing.assert_array_equal(y.shared.get_value(), Y)
    y.shared.set_value(Y + 1)
    np.testing.assert_array_equal(y.shared.get_value(borrow=True), Y + 1)
    np.testing.assert_array_equal(y.get_value(), Y[:10] + 1)


def test_update_shared_asks_for_new_data() -> None:
    calls = []

    def more() -> np.ndarray:
        calls.append(1)
        return Y + len(calls)

    y = dvi.Minibatch(Y, batch_size=10, update_shared_f=more)
    y.update_shared()
    y.update_shared()
    np.testing.assert_array_equal(y.shared.get_value(), Y + 2)
    x, y = dvi.Minibatch(X, Y, batch_size=10, update_shared_f=[None, more])
    y.update_shared()
    np.testing.assert_array_equal(y.get_value(), Y[:10] + 3)
    for variable in (x, x.rows):
        with pytest.raises(ArgumentError, match="without update_shared_f"):
            variable.update_shared()


def test_rows_are_the_row_numbers_of_the_batch() -> None:
    x, y = dvi.Minibatch(X, Y, batch_size=10)
    assert x.rows is y.rows
    assert (x.rows.dtype, x.rows.type.shape) == ("int64", (None,))
    assert x.rows.eval().tolist() == list(range(10))
    y.set_value(Y[:4])
    x.set_value(X[:4])
    assert x.rows.eval().tolist() == list(range(4))
    with pytest.raises(ArgumentError, match="are not data"):
        x.rows.set_value(np.arange(3))


def test_effects_of_rows_are_gathered_by_row_number() -> None:
    x, y = dvi.Minibatch(X, Y, batch_size=10)
    with pm.Model() as model:
        effects = pm.Normal("effects", shape=60)
        pm.Normal("y", effects[x.rows], 1.0, observed=y)
    term = split(model).terms[0]
    assert term.batch.source.names == ("minibatch.1", "minibatch.0.rows")
    values, numbers = term.batch.source.head(60)
    np.testing.assert_array_equal(values, Y)
    np.testing.assert_array_equal(numbers, np.arange(60))
    assert term.batch.source.in_memory == ("minibatch.1",)
