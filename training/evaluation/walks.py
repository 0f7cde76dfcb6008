"""Any dataset of one scene as a sequence of posed images, for the evaluation beside the nearest view."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

import elvsm_core as ec

from ..data.formats import open_store
from ..data.store import DatasetError, FrameError
from .sequences import DataError, Frames


def load_scene(path: str | Path, size: tuple[int, int]) -> Frames:
    """Read a dataset's only scene, frames cropped and resized to size (height, width).

    Raises DataError for a dataset of several scenes, for poses that are no rigid motions, and for a frame that is
    missing: figures of other frames would be taken for those that were asked for.
    """
    try:
        store = open_store(path)
        if len(store) != 1:
            raise DataError(
                f"{path} has {len(store)} scenes: for RealEstate10K give --index, too; of other datasets, convert one "
                f"scene with elvsm_dataset, or give the folder of one"
            )
        scene = store.scene(store.keys[0])
    except DatasetError as error:
        raise DataError(str(error)) from error
    images, poses, intrinsics = [], [], []
    for index in range(len(scene)):
        try:
            image, fxfycxcy, w2c = scene.frame(index)
            u, _, vt = np.linalg.svd(w2c[:3, :3])
            pose = np.eye(4)
            pose[:3, :3], pose[:3, 3] = (u @ vt).T, -(u @ vt).T @ w2c[:3, 3]
            camera = ec.Camera(*fxfycxcy, image.width, image.height, pose)
        except (FrameError, ec.CameraError) as error:
            raise DataError(f"{path}: {error}") from error
        small, camera = ec.resize_and_crop(np.array(image.convert("RGB")), camera, size)
        images.append(small.permute(2, 0, 1))
        poses.append(torch.from_numpy(np.array(camera.T_world_cam)))
        intrinsics.append(torch.tensor(camera.fxfycxcy))
    return Frames(torch.stack(images), torch.stack(poses), torch.stack(intrinsics).float())
