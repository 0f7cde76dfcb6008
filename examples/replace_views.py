"""Evict and replace views of a scene, without encoding the others again: python3 replace_views.py FOLDER [MODEL]"""

import sys
from pathlib import Path

from PIL import Image
from posed_images import read

import elvsm_core as ec

scene = ec.Scene(ec.load_model(sys.argv[2] if len(sys.argv) > 2 else "demo"))
views = {scene.insert(image, camera): (image, camera) for image, camera in read(Path(sys.argv[1]))}
newest = scene.views[-1]
image, camera = views[newest]
Image.fromarray(scene.render([camera]).images[0]).save("before.png")
scene.replace(newest, 255 - image, camera)  # such as an image with a better exposure
Image.fromarray(scene.render([camera]).images[0]).save("replaced.png")
scene.evict(newest)
Image.fromarray(scene.render([camera]).images[0]).save("evicted.png")  # what the others know of this place
