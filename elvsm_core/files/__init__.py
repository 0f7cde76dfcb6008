"""Files of weights and scenes: atomic writes, strict reading, the published weights from their hub.

Start at `weight_files` for weights, `persistence` for scenes.
"""
