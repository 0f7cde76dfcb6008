"""See training/report/charts.py."""

from training.report.charts import *  # noqa: F403
