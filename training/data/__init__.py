"""Where training samples come from: RealEstate10K and drawn scenes, as views, frames and samples.

The trainer opens `sources`; evaluation and conversion open stores of `re10k`. Start at `sources`.
"""
