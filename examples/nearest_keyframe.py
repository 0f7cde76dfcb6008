"""Compare renders with the nearest keyframe, on a recording: python3 nearest_keyframe.py BAG [MODEL]

Every second image of the bag becomes a keyframe; the others are rendered. elvsm_evaluate_bag does much more.
"""

import sys

import numpy as np

import elvsm_core as ec
from elvsm_ros.evaluation.baselines import psnr
from elvsm_ros.recordings.bag_reader import Bag, PosedFrames, find_streams

scene, kept = ec.Scene(ec.load_model(sys.argv[2] if len(sys.argv) > 2 else "demo")), []
with Bag(sys.argv[1]) as bag:
    for index, frame in enumerate(PosedFrames(bag, find_streams(bag))):
        lens = frame.intrinsics
        camera = ec.Camera(lens.fx, lens.fy, lens.cx, lens.cy, lens.width, lens.height, frame.T_world_cam)
        image, camera = ec.resize_and_crop(frame.rgb(), camera, scene.image_size)
        image = image.numpy()
        if index % 2 == 0:
            scene.insert(image, camera)
            kept.append(image)
            continue
        render = scene.render([camera], max_views=4).images[0]
        nearest = np.linalg.norm(scene.poses[:, :3, 3] - camera.T_world_cam[:3, 3], axis=1).argmin()
        copy = psnr(kept[nearest], image)
        print(f"image {index}: render {psnr(render, image):.1f} dB, nearest keyframe {copy:.1f} dB")
