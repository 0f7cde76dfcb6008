"""Reports as files: pages, charts, galleries, videos; progress on a terminal. No torch, no ROS.

Used by the trainer, the evaluation of recordings, the demo and the viewer alike. Start at `page`.
"""
