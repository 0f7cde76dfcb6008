"""What the tests of the node share."""

from __future__ import annotations

import sys
from pathlib import Path

# For `rig`, which is no test and in no package.
sys.path.insert(0, str(Path(__file__).resolve().parent))
