"""The code is in the form that `make format` gives it, and the public API's types hold."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

TOOLS = {
    "ruff check": ("ruff", "check", "--no-cache", "--output-format=concise"),
    "ruff format": ("ruff", "format", "--no-cache", "--check", "--output-format=concise"),
    "mypy": ("mypy",),
}


@pytest.mark.parametrize("tool", TOOLS)
def test_tool_has_nothing_to_say(repository: Path, tool: str) -> None:
    module, *arguments = TOOLS[tool]
    pytest.importorskip(module, reason="needs the extra [dev]: run make")
    result = subprocess.run(
        [sys.executable, "-m", module, *arguments], cwd=repository, text=True, capture_output=True
    )
    assert result.returncode == 0, f"{result.stdout[-4000:]}{result.stderr[-4000:]}\nmake format may help"
