"""Sphinx's settings for the API reference; `make docs` builds it into build/docs, rosdoc2 reads them as well."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import elvsm_core  # noqa: E402

project = "elvsm"
author = "elvsm maintainers"
project_copyright = "2026, elvsm maintainers"
version = release = elvsm_core.__version__
extensions = ["sphinx.ext.autodoc"]
# A machine that builds documentation only, such as ROS's, lacks some of these.
OPTIONAL = ("PIL", "elvsm", "einops", "rclpy", "safetensors", "torch")
autodoc_mock_imports = [name for name in OPTIONAL if importlib.util.find_spec(name) is None]
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_class_signature = "separated"
html_theme = "alabaster"
html_theme_options = {"description": "Online novel view synthesis, as a ROS 2 node and a Python library"}
html_show_sourcelink = False
