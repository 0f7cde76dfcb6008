"""Write formats/colmap with COLMAP's own library: python test/training/formats/make_colmap.py (needs pycolmap)."""

import sys
from pathlib import Path

import numpy as np
import pycolmap

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from footage import ring

OPENCV = [80, 82, 47, 31, 0.1, -0.05, 0.001, 0.002]

model = pycolmap.Reconstruction()
model.add_camera_with_trivial_rig(
    pycolmap.Camera(camera_id=1, model="OPENCV", width=96, height=64, params=OPENCV)
)
model.add_camera_with_trivial_rig(
    pycolmap.Camera(camera_id=2, model="PINHOLE", width=96, height=64, params=[80, 80, 48, 32])
)
points = np.random.default_rng(0).normal(size=(12, 3)) * 0.05
for i, w2c in enumerate(np.linalg.inv(ring(6))):
    image = pycolmap.Image(name=f"left/frame_{i}.png", camera_id=2 if i == 5 else 1, image_id=i + 1)
    image.points2D = pycolmap.Point2DList(
        [pycolmap.Point2D(np.array([10.0 + j, 20.0])) for j in range(len(points))]
    )
    model.add_image_with_trivial_frame(image, pycolmap.Rigid3d(w2c[:3]))
for j, xyz in enumerate(points):
    track = pycolmap.Track()
    for i in range(6):
        track.add_element(i + 1, j)
    model.add_point3D(xyz, track, np.array([200, 100, 50], dtype=np.uint8))
for form, write in (("binary", model.write_binary), ("text", model.write_text)):
    folder = Path(__file__).parent / "colmap" / form
    folder.mkdir(parents=True, exist_ok=True)
    write(str(folder))
