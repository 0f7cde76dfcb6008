"""Save the scene of a running node, forget it, and load it again: python3 save_scene.py [NAME]"""

import sys

from elvsm_ros import SceneClient

name = sys.argv[1] if len(sys.argv) > 1 else "scene"
with SceneClient() as scene:
    scene.wait_until_ready(keyframes=1)
    print("saved:", scene.save(name))
    scene.reset()
    print(len(scene.keyframes()), "keyframes after the reset")
    print(scene.load(name))
