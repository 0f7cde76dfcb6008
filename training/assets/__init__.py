"""Real things for drawn rooms: furniture meshes, photo textures and panoramas, packed from free collections.

`python -m training.assets --furniture FILE.deb --pack FOLDER --out packed/` makes the packed assets (start reading in
packer.py); `load_packed` in packed.py reads them with numpy alone.
"""
