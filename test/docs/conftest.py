"""What the tests of the pages share."""

from __future__ import annotations

import sys
from pathlib import Path

# For `rig`, which is no test and in no package.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "ros"))
