"""What the node reports about itself: ~/status, /diagnostics, logged faults, percentiles.

Start at `health`, which collects it; `diagnostics` puts it into words.
"""
