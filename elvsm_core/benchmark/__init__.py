"""Latency and throughput of insertion and rendering: python -m elvsm_core.benchmark.

Nothing of this room is imported by the library. Start at `measure`.
"""
