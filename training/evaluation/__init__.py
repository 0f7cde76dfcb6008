"""The published evaluation on RealEstate10K, its report, and the worth of every further view.

`python -m training.evaluate` runs it. Start at `protocol`.
"""
