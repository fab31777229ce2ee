"""The report has what is known, is one file, and can be read on a phone, in the dark and by a screen reader."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import arviz as az
import numpy as np
import pymc as pm
import pytest

import dvi
from dvi.report import page
from tests.chromium import DESKTOP, PHONE, chromium_page

COURSE = {
    "seconds": [0.0, 2.0, 3.0, 5.0], "steps": [0, 10, 110, 310], "rows": [0, 100, 1100, 3100], "hosts": [0, 2, 2, 1],
    "learning_rate": [None, 0.05, 0.04, 0.001], "end": "the loss is flat",
}  # fmt: skip


@pytest.fixture(scope="module")
def fitted() -> dvi.Approximation:
    rng = np.random.default_rng(0)
    x, y = dvi.Minibatch(rng.normal(size=1000), rng.normal(size=1000), batch_size=100)
    with pm.Model():
        slope = pm.Normal("slope <i>", 0, 1)
        pm.Normal("y", slope * x, pm.HalfNormal("sigma", 1), observed=y)
        approx = dvi.fit(300, random_seed=1, progressbar=False)
    dvi.diagnose(approx, random_seed=1, progressbar=False)
    approx.run["course"] = [COURSE]
    return approx


@pytest.fixture(scope="module")
def text(fitted: dvi.Approximation) -> str:
    return page(fitted)


def svgs(text: str) -> list[Any]:
    return [ET.fromstring(found) for found in re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL)]


def test_posterior_is_that_of_arviz(fitted: dvi.Approximation, text: str) -> None:
    frame = az.summary(fitted.sample(2000, random_seed=0), kind="stats", ci_prob=0.94, round_to="none")
    for mean, sd in frame[["mean", "sd"]].to_numpy():
        assert f"<td>{mean:.4g}</td><td>{sd:.4g}</td>" in text


def test_says_how_the_fit_was_made_and_what_came_of_it(fitted: dvi.Approximation, text: str) -> None:
    found = fitted.run["diagnosis"]
    assert f"<td>{fitted.run['seed']}</td>" in text
    assert "<td>100 of 1,000 rows, in 1 lanes</td>" in text
    assert all(finding["advice"].split("'")[0] in text for finding in found["findings"])
    row = ["0:00:05", "0:00:02", "310", "3.1k", "62", "620", "2", "the loss is flat"]
    assert "".join(f"<td>{cell}</td>" for cell in row) in text


def test_names_are_escaped(text: str) -> None:
    assert "slope &lt;i&gt;" in text
    assert "<i>" not in text


def test_figures_are_named_and_take_the_colours_of_the_page(text: str) -> None:
    found = svgs(text)
    assert len(found) >= 3
    ids = [element.get("id") for svg in found for element in svg.iter() if element.get("id")]
    assert len(ids) == len(set(ids))
    for svg in found:
        assert svg.get("role") == "img"
        assert svg.get("aria-label")
    assert text.count("currentColor") > 50


def test_nothing_is_fetched(text: str) -> None:
    assert not re.search(r"<script|<link(?! rel=\"icon\" href=\"data:)|@import|src=", text)


def test_it_is_the_same_page_but_for_the_date(fitted: dvi.Approximation, text: str) -> None:
    date = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC")
    assert date.sub("", page(fitted)) == date.sub("", text)


def test_a_loaded_approximation_has_a_report_too(fitted: dvi.Approximation, tmp_path: Path) -> None:
    fitted.save(tmp_path / "fit.zarr")
    loaded = dvi.load(tmp_path / "fit.zarr")
    path = loaded.report(tmp_path / "fit.html")
    assert path == tmp_path / "fit.html"
    assert "slope &lt;i&gt;" in path.read_text("utf-8")


def test_what_is_not_known_is_said() -> None:
    with pm.Model():
        pm.Normal("mu")
        approx = dvi.MeanField()
    bare = page(approx)
    assert "Not diagnosed" in bare
    assert "not fitted" in bare
    assert "Not recorded." in bare


def test_a_page_that_cannot_be_written(fitted: dvi.Approximation, tmp_path: Path) -> None:
    with pytest.raises(dvi.errors.StoreError, match=r"nowhere.*give a file in a folder that is there"):
        fitted.report(tmp_path / "nowhere" / "fit.html")
    (tmp_path / "folder").mkdir()
    with pytest.raises(dvi.errors.StoreError):
        fitted.report(tmp_path / "folder")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_in_a_browser(fitted: dvi.Approximation, tmp_path: Path, size: tuple[int, int], scheme: str) -> None:
    path = fitted.report(tmp_path / "fit.html")
    with chromium_page(size, scheme) as shown:
        shown.goto(path.as_uri())
        assert shown.errors == []
        assert shown.requests == [path.as_uri()]
        assert shown.evaluate("document.documentElement.scrollWidth") <= size[0]
        shown.keyboard.press("Tab")
        assert shown.evaluate("document.activeElement.textContent") == "Skip to the content"
        shown.keyboard.press("Enter")
        shown.wait_for_function("location.hash === '#content'")
        scrolled = shown.locator("[tabindex='0']").all()
        assert scrolled
        assert all(part.get_attribute("aria-label") for part in scrolled)
        assert shown.get_by_role("img").count() == shown.locator("svg").count() >= 3
        assert [h.inner_text() for h in shown.get_by_role("heading", level=1).all()] == [shown.title()]
        ink, paper = (
            shown.evaluate(f"getComputedStyle(document.body).{name}") for name in ("color", "backgroundColor")
        )
        assert contrast(ink, paper) > 7.0


def contrast(*colours: str) -> float:
    """Ratio of luminances by the rule of WCAG 2."""
    lights = []
    for colour in colours:
        channels = np.array([int(value) for value in re.findall(r"\d+", colour)[:3]]) / 255
        linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
        lights.append(float(linear @ [0.2126, 0.7152, 0.0722]))
    return (max(lights) + 0.05) / (min(lights) + 0.05)
