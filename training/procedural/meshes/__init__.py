"""Drawn rooms of triangle meshes and photographed materials. Start at `rooms`, then `scene`; `tracer` renders."""
