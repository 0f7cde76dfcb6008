"""Render one view from a running node and save it: python3 render_view.py [view.png]"""

import sys

import numpy as np
from PIL import Image

from elvsm_ros import SceneClient

T_keyframe_view = np.eye(4)
T_keyframe_view[0, 3] = 0.1  # metres to the right

with SceneClient() as scene:
    scene.wait_until_ready(keyframes=1)
    image = scene.render(scene.keyframes().poses[-1] @ T_keyframe_view)
Image.fromarray(image).save(sys.argv[1] if len(sys.argv) > 1 else "view.png")
