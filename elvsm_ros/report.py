"""See training/report/page.py."""

from training.report.page import *  # noqa: F403
