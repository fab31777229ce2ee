"""Approximations and diagnoses as text and as cards."""

from __future__ import annotations

import re

import numpy as np
import pytest

from dvi.approximation import Approximation
from dvi.approximations.meanfield import MeanFieldFamily
from dvi.diagnostics.diagnosis import Diagnosis, Element
from dvi.diagnostics.findings import Finding
from dvi.html import Section, card, table
from dvi.model.layout import Entry, Layout, Transform
from tests.chromium import chromium_page

RUN = {
    "method": "advi", "seed": 7,
    "data": [{"n_rows": 1000, "arrays": [{"name": "<x>", "shape": [1000, 3], "dtype": "float32", "label": "a & b"}]}],
    "lanes": [{"batch_size": 100, "lanes": 2}],
}  # fmt: skip


def approximation(n: int, losses: list[float], **run: object) -> Approximation:
    entries = [Entry(f"v{i}", f"v{i}_log__", (), i, i + 1, ("<d>",), Transform("log")) for i in range(n)]
    return Approximation(MeanFieldFamily(n), np.zeros(2 * n), Layout(tuple(entries), {}), np.array(losses), run)


def diagnosis() -> Diagnosis:
    element = Element("v[0] <", 0.0, 1.0, 0.5, 0.1, 1.0, 1.0, 0.0, 1.0)
    finding = Finding("mean", "the mean is 0.5 sd < off.", "Fit more steps.")
    return Diagnosis((finding,), (), {"khat": 0.3, "khat_threshold": 0.67}, (element,), "MeanField", 1, 500, 0, 10)


def cells(html: str) -> list[str]:
    return re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", html)


def test_text_is_one_line_however_many_variables() -> None:
    assert repr(approximation(2, [3.0, 1.0])) == "<dvi.MeanField of 2 dimensions (2 steps, ELBO -1): v0, v1>"
    assert repr(approximation(15, [])).endswith(
        "(not fitted): " + ", ".join(f"v{i}" for i in range(12)) + ", and 3 more>"
    )
    assert "loss 1)" in repr(approximation(2, [3.0, 1.0], measure="distance"))


def test_card_has_variables_data_and_settings() -> None:
    html = approximation(2, [3.0, 1.0], **RUN)._repr_html_()
    assert "2 steps, ELBO -1" in html
    shown = cells(html)
    assert shown[4:8] == ["v0", "scalar", "&lt;d&gt;", "log"]
    assert shown[16:20] == ["&lt;x&gt;", "1,000 × 3", "float32", "a &amp; b"]
    assert "100 of 1,000 rows, in 2 lanes" in shown


def test_card_says_what_the_last_diagnosis_found() -> None:
    found = approximation(1, [1.0], **RUN, diagnosis=diagnosis().to_json())
    assert cells(found._repr_html_())[-1] == "mean"


def test_card_of_many_variables_is_closed() -> None:
    assert "<details open>" in approximation(12, [])._repr_html_()
    assert "<details open>" not in approximation(13, [])._repr_html_()


def test_card_of_a_diagnosis() -> None:
    html = diagnosis()._repr_html_()
    assert "the mean is 0.5 sd &lt; off." in html
    assert "v[0] &lt;" in html
    assert "dvi.Diagnosis: mean" in html


def test_nothing_is_html_that_was_text() -> None:
    html = card("<a>", "<b>", [Section("<c>", [["<d>", "<e>"]], ("<f>", "<g>"), "<h>"), Section("empty", [])])
    assert not re.search(r"<[a-h]>", html)
    assert "empty" not in html


def test_first_cell_is_a_heading_only_where_there_are_no_columns() -> None:
    assert table([["a", "b"]], ("x", "y")).count("<td>") == 2
    assert table([["a", "b"]]).count('<th scope="row">') == 1


@pytest.mark.slow
@pytest.mark.parametrize(("scheme", "ink"), [("light", "rgb(0, 0, 0)"), ("dark", "rgb(255, 255, 255)")])
def test_card_takes_the_colours_of_the_page(scheme: str, ink: str) -> None:
    page_style = "<meta name=color-scheme content='light dark'><body style='background:Canvas;color:CanvasText'>"
    with chromium_page(scheme=scheme) as page:
        page.set_content(page_style + approximation(2, [1.0], **RUN)._repr_html_())
        assert page.errors == []
        assert page.locator("td").first.evaluate("e => getComputedStyle(e).color") == ink
        settings = page.get_by_text("Settings")
        assert not page.get_by_text("advi").is_visible()
        settings.focus()
        page.keyboard.press("Enter")
        assert page.get_by_text("advi").is_visible()
