"""colcon builds a clone, over the ROS packages of PyPI, into what ROS tools expect."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Listing = Callable[[Path], set[str]]

pytest.importorskip("rclpy", reason="needs the ROS packages: run make")


@pytest.fixture(scope="module")
def colcon() -> str:
    path = os.environ.get("ELVSM_COLCON")
    if not path:
        pytest.skip("needs colcon: run make test, or set ELVSM_COLCON to the executable")
    return path


@pytest.fixture(scope="module")
def workspace(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a workspace whose src/elvsm is a clone."""
    path = tmp_path_factory.mktemp("workspace")
    (path / "src").mkdir()
    (path / "src" / "elvsm").symlink_to(checkout)
    return path


@pytest.fixture(scope="module")
def build(colcon: str, workspace: Path) -> subprocess.CompletedProcess[str]:
    fixups = workspace / "src" / "elvsm" / "cmake" / "wheel_fixups.cmake"
    command = [
        *(colcon, "build", "--event-handlers", "console_cohesion+", "--cmake-args", "-GNinja"),
        *(f"-DCMAKE_PROJECT_INCLUDE={fixups}", f"-DPython3_EXECUTABLE={sys.executable}"),
    ]
    environment = {**os.environ, "AMENT_PREFIX_PATH": sys.prefix, "CMAKE_PREFIX_PATH": sys.prefix}
    environment["PATH"] = f"{Path(sys.prefix) / 'bin'}{os.pathsep}{environment['PATH']}"
    environment.pop("PYTHONPATH", None)
    return subprocess.run(
        command, cwd=workspace, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


@pytest.fixture(scope="module")
def prefix(build: subprocess.CompletedProcess[str], workspace: Path) -> Path:
    """Return the install prefix of the package."""
    if build.returncode:
        pytest.fail("colcon build failed; test_it_builds_without_an_error shows its output")
    return workspace / "install" / "elvsm"


def in_overlay(workspace: Path, command: str) -> str:
    """Run a command with the workspace's overlay set up, away from the sources; return what it printed."""
    script = f"source install/local_setup.bash && cd / && {command}"
    result = subprocess.run(["bash", "-c", script], cwd=workspace, text=True, capture_output=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.mark.parametrize("start", ["src", "src/elvsm"])
def test_colcon_sees_one_package(colcon: str, workspace: Path, start: str) -> None:
    listing = subprocess.run(
        [colcon, "list", "--base-paths", "."],
        cwd=workspace / start,
        text=True,
        capture_output=True,
        check=True,
    )
    assert len(listing.stdout.splitlines()) == 1
    name, _, kind = listing.stdout.split("\t")
    assert (name, kind.strip()) == ("elvsm", "(ros.ament_cmake)")


def test_it_builds_without_an_error(build: subprocess.CompletedProcess[str]) -> None:
    assert build.returncode == 0, build.stdout[-4000:]
    assert "1 package finished" in build.stdout
    assert "CMake Error" not in build.stdout
    assert "error:" not in build.stdout


@pytest.mark.parametrize("folder", ["launch", "config", "examples"])
def test_shared_folders_lie_where_ros_looks(prefix: Path, checkout: Path, folder: str) -> None:
    source, installed = checkout / folder, prefix / "share" / "elvsm" / folder
    names = {path.relative_to(source) for path in source.rglob("*") if path.is_file()}
    assert names, f"{folder}/ is empty"
    assert {path.relative_to(installed) for path in installed.rglob("*") if path.is_file()} == names


def test_the_package_is_in_the_ament_index(prefix: Path) -> None:
    assert (prefix / "share/ament_index/resource_index/packages/elvsm").is_file()
    assert (prefix / "share/elvsm/package.xml").is_file()


def test_the_executables_lie_where_ros2_run_looks(prefix: Path, executables: set[str]) -> None:
    installed = {path.name for path in (prefix / "lib" / "elvsm").iterdir() if os.access(path, os.X_OK)}
    assert installed == executables


def test_all_modules_and_the_weights_are_installed(prefix: Path, checkout: Path, modules: Listing) -> None:
    (site_packages,) = prefix.glob("lib/python*/site-packages")
    assert modules(site_packages) == modules(checkout)


def test_the_overlay_has_its_own_modules_and_interfaces(prefix: Path, workspace: Path) -> None:
    printed = in_overlay(
        workspace,
        f"{sys.executable} -c 'import elvsm_core, elvsm_ros, elvsm_training, elvsm.msg, elvsm.srv\n"
        "for module in (elvsm_core, elvsm_ros, elvsm_training, elvsm.msg, elvsm.srv): print(module.__file__)\n"
        'elvsm.msg.Status.__class__.__import_type_support__(); print("types")\'',
    ).splitlines()
    assert printed.pop() == "types"
    assert len(printed) == 5
    assert all(path.startswith(f"{prefix}{os.sep}") for path in printed), printed


def test_recordings_are_a_dataset_format_in_the_overlay(workspace: Path, prefix: Path) -> None:
    code = 'from elvsm_training.data.formats import find_format; print(find_format("bag").__file__)'
    printed = in_overlay(workspace, f"{sys.executable} -c '{code}'")
    assert printed.startswith(f"{prefix}{os.sep}")
