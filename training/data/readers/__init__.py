"""The built-in dataset formats, one module each: `detect` and `open_store`, see docs/datasets.md.

`training.data.formats` finds them by name. Start at `cameras`, the simplest.
"""
