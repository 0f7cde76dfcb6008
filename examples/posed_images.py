"""Render from a folder of images with poses, without ROS: python3 posed_images.py FOLDER [MODEL]

FOLDER holds transforms.json, as nerfstudio and instant-ngp write it, and the images that it names.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

import elvsm_core as ec


def read(folder: Path) -> Iterator[tuple[np.ndarray, ec.Camera]]:
    """Yield the images, uint8 RGB [H, W, 3], and their cameras."""
    about = json.loads((folder / "transforms.json").read_text())
    lens = [about[name] for name in ("fl_x", "fl_y", "cx", "cy", "w", "h")]
    for frame in about["frames"]:
        # The file has OpenGL's axes (y up, z backward), elvsm has OpenCV's (y down, z forward).
        T_world_cam = np.array(frame["transform_matrix"]) @ np.diag([1.0, -1.0, -1.0, 1.0])
        yield np.array(Image.open(folder / frame["file_path"]).convert("RGB")), ec.Camera(*lens, T_world_cam)


if __name__ == "__main__":
    scene = ec.Scene(ec.load_model(sys.argv[2] if len(sys.argv) > 2 else "demo"))
    for image, camera in read(Path(sys.argv[1])):
        scene.insert(image, camera)
    T = camera.T_world_cam.copy()
    T[:3, 3] += 0.1 * T[:3, 0]  # 10 cm to the right of the last image
    Image.fromarray(scene.render([camera.at(T)]).images[0]).save("view.png")
