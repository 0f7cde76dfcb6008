"""What the tests of the examples share."""

from __future__ import annotations

import sys
from pathlib import Path

# For `rig` and `recordings`, which are no tests and in no package.
sys.path[:0] = [str(Path(__file__).resolve().parents[1] / folder) for folder in ("ros", "demo")]
