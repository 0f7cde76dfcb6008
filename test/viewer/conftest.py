"""A real browser for the viewer's page."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# For `rig`, which is no test and in no package.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "ros"))

INSTALLED = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Return a headless Chromium that draws WebGL on the CPU, or skip the test.

    Playwright keeps an event loop in this thread meanwhile, and other tests start one of their own.
    """
    fetched = Path(sys.prefix) / "browser" / "chromium"
    names = [os.environ.get("ELVSM_BROWSER"), str(fetched), *INSTALLED]
    path = next((found for found in (shutil.which(name) for name in names if name) if found), None)
    if path is None:
        pytest.skip("needs Chromium: run make test with a network, install one, or set ELVSM_BROWSER to one")
    playwright = pytest.importorskip("playwright.sync_api", reason="needs the extra [dev]: run make")
    pytest.importorskip("viser", reason="needs the extra [viewer]: run make")
    with playwright.sync_playwright() as session:
        browser = session.chromium.launch(
            executable_path=path,
            args=["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"],
        )
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def screenshots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder that pictures of the page go to: ELVSM_SCREENSHOTS, or one that pytest removes."""
    folder = os.environ.get("ELVSM_SCREENSHOTS")
    path = Path(folder) if folder else tmp_path_factory.mktemp("screenshots")
    path.mkdir(parents=True, exist_ok=True)
    return path


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file of a small model with random weights; its own size is 32x32."""
    from rig import save_small_model

    return save_small_model(tmp_path_factory.mktemp("model") / "small.safetensors")
