"""Settings and fixtures that all tests share."""

from __future__ import annotations

import os
import random
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# For `process_guard`, which is no test and in no package.
sys.path.insert(0, str(Path(__file__).resolve().parent))

import process_guard

TEST_DATA_VARIABLE = "ELVSM_TEST_DATA"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
ROOT = Path(__file__).resolve().parents[1]


def pytest_configure(config: pytest.Config) -> None:
    """Give this session's ROS nodes, and the processes they start, a network of their own.

    This comes before any test module is imported, because rclpy and Fast DDS read the environment once.
    """
    config.pluginmanager.register(process_guard)
    # Processes of one run that share the tests (pytest-xdist) get neighbouring domains. Domains 1 to 101 are free of
    # the ephemeral ports of Linux; 0 is the one that a robot nearby would use.
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID")
    first = random.Random(run).randint(0, 100) if run else random.SystemRandom().randint(0, 100)
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    os.environ["ROS_DOMAIN_ID"] = str(1 + (first + worker) % 101)
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    # Fast DDS's default shared-memory segment loses images of 640x480 and above; the file says more.
    os.environ["FASTDDS_DEFAULT_PROFILES_FILE"] = str(ROOT / "config" / "fastdds_localhost.xml")
    os.environ["FASTDDS_BUILTIN_TRANSPORTS"] = "LARGE_DATA"
    # The ROS packages of PyPI take the virtual environment as their prefix.
    prefixes = [p for p in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if p]
    if sys.prefix not in prefixes:
        os.environ["AMENT_PREFIX_PATH"] = os.pathsep.join([*prefixes, sys.prefix])


@pytest.fixture(scope="session", autouse=True)
def _torch_threads() -> None:
    """Use one thread: several gain nothing from small tensors, and wait for each other where processes share cores."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def repository() -> Path:
    """Return the root of the source tree."""
    return ROOT


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    """Return the folder of golden figures; its README says what they are."""
    return ROOT / "test" / "golden"


@pytest.fixture(scope="session")
def test_data() -> Path:
    """Return the folder of recorded data that is not part of the repository, or skip the test."""
    value = os.environ.get(TEST_DATA_VARIABLE)
    if not value:
        pytest.skip(f"needs recorded data: set {TEST_DATA_VARIABLE} to the folder that holds office_walk/")
    folder = Path(value)
    if not folder.is_dir():
        pytest.fail(f"{TEST_DATA_VARIABLE}={value} is not a folder; correct it or unset it")
    return folder


@pytest.fixture(scope="session")
def office_walk(test_data: Path) -> Path:
    """Return the folder of photographs of a walk through an office, with cameras.json, or skip the test."""
    return _part(test_data, "office_walk")


@pytest.fixture(scope="session")
def office_bag(test_data: Path) -> Path:
    """Return the rosbag2 (mcap) of the same walk, or skip the test."""
    return _part(test_data, "office_walk_bag")


def _part(folder: Path, name: str) -> Path:
    if not (folder / name).is_dir():
        pytest.skip(f"{TEST_DATA_VARIABLE} holds no {name}/")
    return folder / name


@pytest.fixture(scope="session")
def blind_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file of a tiny model with random weights: quick, and certain to render badly."""
    import torch

    import elvsm_core as ec

    torch.manual_seed(0)
    model = ec.EfficientLVSM(
        ec.ModelConfig(width=64, head_dim=32, layers=2, patch_size=8, image_size=(32, 32))
    )
    path = tmp_path_factory.mktemp("models") / "blind.safetensors"
    ec.save_model(model, path)
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Return a headless Chromium that draws WebGL on the CPU, or skip the test.

    Playwright keeps an event loop in this thread meanwhile, and other tests start one of their own.
    """
    fetched = Path(sys.prefix) / "browser" / "chromium"
    names = [os.environ.get("ELVSM_BROWSER"), str(fetched), *BROWSERS]
    path = next((found for found in (shutil.which(name) for name in names if name) if found), None)
    if path is None:
        pytest.skip("needs Chromium: run make test with a network, install one, or set ELVSM_BROWSER to one")
    playwright = pytest.importorskip("playwright.sync_api", reason="needs the extra [dev]: run make")
    with playwright.sync_playwright() as session:
        browser = session.chromium.launch(
            executable_path=path,
            args=["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"],
        )
        yield browser
        browser.close()
