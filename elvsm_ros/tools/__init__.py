"""What the command-line tools share: options, child processes, the node as a child process, image grids.

Used by demo, evaluation and viewer; the node itself needs none of it.
"""
