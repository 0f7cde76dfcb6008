"""Correct the keyframes of a running node after a loop closure: python3 loop_closure.py"""

import numpy as np

from elvsm_ros import SceneClient

drift = np.array(
    [0.0, 0.0, 0.05]
)  # metres in the world frame, which had grown evenly until the loop was closed

with SceneClient() as scene:
    scene.wait_until_ready(keyframes=1)
    keyframes = scene.keyframes()
    corrected = {}
    for share, view, T in zip(np.linspace(0, 1, len(keyframes)), keyframes.ids, keyframes.poses, strict=True):
        corrected[view] = T.copy()
        corrected[view][:3, 3] -= share * drift
    scene.update_poses(corrected)  # when only map -> odom has changed: scene.move_map(T_new_old), at no cost
    print("the newest keyframe is at", scene.keyframes().poses[-1][:3, 3].round(3))
