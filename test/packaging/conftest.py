"""A copy of what is tracked, and what tells about the packaging files."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def checkout(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy the tracked files, as they are now: what a clone would have once everything is committed."""
    if not (repository / ".git").exists():
        pytest.skip("needs a git checkout to know which files belong to the project")
    listing = subprocess.run(
        ["git", "ls-files", "-z"], cwd=repository, capture_output=True, check=True, text=True
    ).stdout
    target = tmp_path_factory.mktemp("checkout") / "elvsm"
    for name in filter(None, listing.split("\0")):
        if name.startswith("test/golden/") or not (repository / name).exists():
            continue  # the figures are of no use to a package, and deleted files are gone
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(repository / name, target / name)
    return target


@pytest.fixture(scope="session")
def executables(repository: Path) -> set[str]:
    """Return the names of the ROS executables."""
    return {path.name for path in (repository / "scripts").iterdir()}


@pytest.fixture(scope="session")
def modules() -> Callable[[Path], set[str]]:
    """Return a function that lists the files of the Python packages below a folder, byte code left out.

    They go by the names that they are installed by, also in a checkout.
    """

    def listing(root: Path) -> set[str]:
        found = {
            str(path.relative_to(root))
            for package in ("elvsm_core", "elvsm_report", "elvsm_ros", "elvsm_training", "training")
            for path in (root / package).rglob("*")
            if path.is_file() and path.suffix not in {".pyc", ".pyo"}
        }
        if (root / "setup.py").exists():
            return {re.sub(r"^training/", "elvsm_training/", name) for name in found}
        return found

    return listing
