"""A page in headless Chromium, for tests of what is shown there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

PHONE, DESKTOP = (390, 844), (1280, 900)


@contextmanager
def chromium_page(size: tuple[int, int] = DESKTOP, scheme: str = "light") -> Iterator[Any]:
    """A page whose console errors are collected in ``page.errors``, and requests in ``page.requests``.

    The browser is the one that DVI_CHROMIUM names, or ``chromium`` on the path. Without it the test is skipped.
    """
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    path = os.environ.get("DVI_CHROMIUM") or shutil.which("chromium")
    if path is None:
        pytest.skip("needs Chromium: apt-get install chromium, or name one in DVI_CHROMIUM")
    with playwright.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": size[0], "height": size[1]}, color_scheme=scheme)
        page.errors, page.requests = [], []
        page.on("console", lambda message: page.errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        page.on("request", lambda request: page.requests.append(request.url))
        yield page
        browser.close()
