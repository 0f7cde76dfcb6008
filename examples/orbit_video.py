"""Fly around what the newest keyframe looks at, as a video: python3 orbit_video.py [orbit.mp4]"""

import sys

import numpy as np

from elvsm_report.video import write_video
from elvsm_ros import SceneClient


def turned(angle: float, distance: float = 1.5) -> np.ndarray:
    """Return T_keyframe_view of a camera that has moved around the point `distance` metres ahead, by radians."""
    s, c = np.sin(angle), np.cos(angle)
    return np.array([[c, 0, s, -distance * s], [0, 1, 0, 0], [-s, 0, c, distance * (1 - c)], [0, 0, 0, 1]])


with SceneClient() as scene:
    scene.wait_until_ready(keyframes=1)
    start = scene.keyframes().poses[-1]
    poses = [start @ turned(0.35 * np.sin(t)) for t in np.linspace(0, 2 * np.pi, 60)]
    path = sys.argv[1] if len(sys.argv) > 1 else "orbit.mp4"
    print(write_video(path, scene.stream_trajectory(poses), rate=15), "images in", path)
