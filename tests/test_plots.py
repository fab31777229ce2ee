"""Plots show what is in the object, and show on light and on dark backgrounds."""

from __future__ import annotations

import builtins
from collections.abc import Iterator
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib import colors
from matplotlib import pyplot as plt

import dvi
from dvi.approximation import Approximation
from dvi.approximations.meanfield import MeanFieldFamily
from dvi.callbacks import Tracker
from dvi.diagnostics.diagnosis import Diagnosis, Element, WeightedDraws
from dvi.model.layout import Entry, Layout, Transform
from dvi.plots.elbo import moving_mean

LAYOUT = Layout((Entry("beta", "beta", (2,), 0, 2, (), Transform("identity")),), {})
COURSE = {
    "seconds": [0.0, 2.0, 3.0, 5.0, 6.0], "steps": [0, 10, 110, 310, 400], "rows": [0, 100, 1100, 3100, 4000],
    "hosts": [0, 2, 2, 1, 2], "learning_rate": [None, 0.05, 0.04, 0.02, 0.001], "end": "done",
}  # fmt: skip
RUN = {"data": [{"n_rows": 1000}], "lanes": [{"batch_size": 10}], "course": [COURSE]}


@pytest.fixture(autouse=True)
def _agg() -> Iterator[None]:
    mpl.use("Agg")
    yield
    plt.close("all")


def approximation(n: int = 400, **run: Any) -> Approximation:
    losses = 1000.0 * np.exp(-np.arange(n) / 50.0) + np.random.default_rng(0).normal(size=n)
    return Approximation(MeanFieldFamily(2), np.zeros(4), LAYOUT, losses, run)


def diagnosis(khat: float = 0.3) -> Diagnosis:
    elements = tuple(Element(f"beta[{i}]", 0.0, 1.0, 0.1 * i, 0.02, 1.0, 1.0 + 0.1 * i, 0.0, 1.0) for i in range(20))
    logs = np.random.default_rng(1).normal(size=500)
    logs -= np.logaddexp.reduce(logs)
    sample = WeightedDraws(np.zeros((500, 20)), logs, lambda Z: None)  # type: ignore[arg-type, return-value]
    numbers = {"khat": khat, "khat_threshold": 0.67}
    return Diagnosis((), (), numbers, elements, "MeanField", 20, 500, 0, 400, sample)


def tracker(n: int = 30) -> Tracker:
    kept = Tracker(mean=lambda a, h, i: np.array([i, -i]), std=lambda a, h, i: np.array([1.0, 2.0]))
    for i in range(n):
        kept(None, np.zeros(1), i)  # type: ignore[arg-type]
    return kept


def line(ax: Any, label: str) -> Any:
    return next(found for found in ax.lines if found.get_label() == label)


# ELBO


def test_elbo_has_every_step_and_the_mean_of_the_window() -> None:
    approx = approximation()
    ax = dvi.plot_elbo(approx, smooth=5)
    np.testing.assert_array_equal(line(ax, "one step").get_ydata(), -approx.hist)
    np.testing.assert_allclose(line(ax, "mean of 5 steps").get_ydata()[0], -approx.hist[:5].mean())
    assert line(ax, "mean of 5 steps").get_xdata()[0] == 3.0


def test_elbo_without_smoothing_is_one_line() -> None:
    assert len(dvi.plot_elbo(approximation(), smooth=1).lines) == 1


def test_first_steps_do_not_flatten_the_rest() -> None:
    low, high = dvi.plot_elbo(approximation(1000)).get_ylim()
    assert low > -1000.0
    assert high > 0.0


def test_epochs_are_counted_at_the_top() -> None:
    ax = dvi.plot_elbo(approximation(**RUN))
    (top,) = (child for child in ax.child_axes if child.get_xlabel() == "epoch")
    ax.figure.canvas.draw()
    assert top.get_xlim() == pytest.approx([limit / 100 for limit in ax.get_xlim()])


def test_learning_rate_and_stops_are_shown_as_recorded() -> None:
    ax = dvi.plot_elbo(approximation(800, course=[COURSE, {**COURSE, "end": "the loss is flat"}]))
    right = next(other for other in ax.figure.axes if other.get_ylabel() == "learning rate")
    steps, rates = np.transpose(right.lines[0].get_data())[:5].T
    np.testing.assert_array_equal(steps, [10, 110, 310, 400, 400])
    np.testing.assert_array_equal(rates, [0.05, 0.04, 0.02, 0.001, np.nan])
    assert right.lines[0].get_xdata()[5] == 410
    assert sorted(x for found in ax.lines if found.get_linestyle() == ":" for x in set(found.get_xdata())) == [400, 800]
    assert [text.get_text() for text in ax.texts] == ["the loss is flat"]


def test_what_is_no_elbo_is_a_loss() -> None:
    approx = approximation(measure="distance")
    ax = dvi.plot_elbo(approx)
    assert ax.get_ylabel() == "loss"
    np.testing.assert_array_equal(line(ax, "one step").get_ydata(), approx.hist)


@pytest.mark.parametrize("smooth", [0, -1, 401])
def test_window_must_fit(smooth: int) -> None:
    with pytest.raises(dvi.errors.ArgumentError, match=f"smooth={smooth}.*at most 400"):
        dvi.plot_elbo(approximation(), smooth=smooth)


def test_nothing_fitted_is_nothing_to_plot() -> None:
    with pytest.raises(dvi.errors.ArgumentError, match="fit at least one step"):
        dvi.plot_elbo(approximation(0))


def test_moving_mean() -> None:
    np.testing.assert_allclose(moving_mean(np.arange(5.0), 3), [1, 2, 3])


# Trace


def test_trace_has_lines_and_bands() -> None:
    ax = dvi.plot_trace(tracker(), labels=["a", "b"])
    np.testing.assert_array_equal(line(ax, "b").get_ydata(), -np.arange(30.0))
    low, high = (f(ax.collections[1].get_paths()[0].vertices[:, 1]) for f in (np.min, np.max))
    assert (low, high) == (-31.0, 2.0)


def test_trace_of_chosen_elements_without_bands() -> None:
    ax = dvi.plot_trace(tracker(), std=None, elements=[1])
    assert [found.get_label() for found in ax.lines] == ["mean[1]"]
    assert not ax.collections


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mean": "mode"}, "'mode' is not tracked"),
        ({"elements": [2]}, "numbers below 2"),
        ({"labels": ["a"]}, "labels has 1 names for the 2 elements"),
    ],
)
def test_trace_refuses_what_is_not_there(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(dvi.errors.ArgumentError, match=message):
        dvi.plot_trace(tracker(), **settings)


def test_trace_of_nothing() -> None:
    with pytest.raises(dvi.errors.ArgumentError, match=r"callbacks=\[tracker\]"):
        dvi.plot_trace(tracker(0))


# Diagnosis


@pytest.mark.parametrize(("khat", "title"), [(0.3, "k-hat 0.30, within 0.67"), (0.9, "k-hat 0.90, above 0.67")])
def test_diagnosis_shows_weights_and_the_worst_elements(khat: float, title: str) -> None:
    found = diagnosis(khat)
    left, right = dvi.plot_diagnosis(found)
    assert left.get_title() == title
    weights = left.lines[1].get_ydata()
    assert weights.mean() == pytest.approx(1.0)
    assert (np.diff(weights) <= 0).all()
    names = [label.get_text() for label in right.get_yticklabels()]
    assert names == [element.name for element in found.worst(15)]


def test_diagnosis_that_was_read_back_has_no_weights() -> None:
    left, _ = dvi.plot_diagnosis(Diagnosis.from_json(diagnosis().to_json()))
    assert [text.get_text() for text in left.texts] == ["weights are not stored"]


# Throughput


def test_throughput_is_rows_over_seconds() -> None:
    ax = dvi.plot_throughput(approximation(**RUN))
    (stairs,) = (patch for patch in ax.patches if hasattr(patch, "get_data"))
    values, edges, _ = stairs.get_data()
    np.testing.assert_allclose(edges, [2, 2 + 4 / 3, 2 + 8 / 3, 6])
    np.testing.assert_allclose(values, [1000.0, 1000.0, 925.0])
    assert values @ np.diff(edges) == pytest.approx(3900)  # the rows after the first moment
    right = next(other for other in ax.figure.axes if other.get_ylabel() == "hosts")
    assert list(right.lines[0].get_ydata()) == [2, 2, 1, 2]


def test_throughput_is_divided_as_the_time_was() -> None:
    course = {
        "seconds": [0, 2, 4], "steps": [0, 10, 30], "rows": [0, 100, 2100], "hosts": [0, 1, 1],
        "read": [0, 0, 0.5], "compute": [0, 0, 1.0], "wait": [0, 0, 0.5],
    }  # fmt: skip
    ax = dvi.plot_throughput(approximation(course=[course]))
    tops = [float(p.get_data().values[0]) for p in ax.patches if hasattr(p, "get_data")]
    assert tops == [1000.0, 500.0, 750.0, 1000.0]  # rows per second, and below it computing, reading and waiting
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["compute 50 %", "read 25 %", "wait 25 %"]


def test_throughput_of_what_was_not_recorded() -> None:
    with pytest.raises(dvi.errors.ArgumentError, match="recorded"):
        dvi.plot_throughput(approximation())


# Where and how


def draw(name: str, ax: Any = None) -> Any:
    match name:
        case "elbo":
            return dvi.plot_elbo(approximation(**RUN), ax)
        case "trace":
            return dvi.plot_trace(tracker(), ax)
        case "diagnosis":
            return dvi.plot_diagnosis(diagnosis(), ax)
    return dvi.plot_throughput(approximation(**RUN), ax)


@pytest.mark.parametrize("name", ["elbo", "trace", "diagnosis", "throughput"])
def test_given_axes_are_drawn_on(name: str) -> None:
    given = plt.figure().subplots(1, 2) if name == "diagnosis" else plt.figure().add_subplot()
    before = plt.get_fignums()
    assert np.all(draw(name, given) == given)
    assert plt.get_fignums() == before


@pytest.mark.parametrize("style", ["default", "dark_background"])
@pytest.mark.parametrize("name", ["elbo", "trace", "diagnosis", "throughput"])
def test_everything_shows_on_its_background(name: str, style: str) -> None:
    """Every line and text differs from the background by a third of the way from black to white, in some channel."""
    with plt.style.context(style):
        axes = np.atleast_1d(draw(name))
        figure = axes[0].figure
        background = np.array(colors.to_rgb(figure.get_facecolor()))
        figure.canvas.draw()
        for ax in figure.axes:
            drawn = [found.get_color() for found in ax.lines] + [text.get_color() for text in ax.texts]
            drawn += [label.get_color() for label in (ax.xaxis.label, ax.yaxis.label, ax.title)]
            for colour in drawn:
                assert np.abs(np.array(colors.to_rgb(colour)) - background).max() > 1 / 3, (ax, colour)


def test_wrong_number_of_axes() -> None:
    with pytest.raises(dvi.errors.ArgumentError, match="1 axes and the plot has 2 panels"):
        dvi.plot_diagnosis(diagnosis(), plt.figure().add_subplot())


def test_without_matplotlib_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **options: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ModuleNotFoundError(name)
        return real(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(dvi.errors.DviError, match=r"dask-vi\[plots\]"):
        dvi.plot_elbo(approximation())
