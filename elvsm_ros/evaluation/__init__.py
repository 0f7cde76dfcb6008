"""Measure on a recording how well the scene that the node would build renders frames that it did not keep."""
