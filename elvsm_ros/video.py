"""See training/report/video.py."""

from training.report.video import *  # noqa: F403
