"""What pyproject.toml cannot say: the folder training/ is installed as elvsm_training.

An installed package must not own a name as common as `training`; a clone runs `python -m training.train` all the same.
"""

from setuptools import find_packages, setup

RENAMED = {"training": "elvsm_training"}
OWN = find_packages(include=["elvsm_core*", "elvsm_report*", "elvsm_ros*", "training*"])


def installed(package: str) -> str:
    """Return the name that a package is installed by."""
    top, dot, rest = package.partition(".")
    return RENAMED.get(top, top) + dot + rest


setup(
    packages=[installed(package) for package in OWN], package_dir={new: old for old, new in RENAMED.items()}
)
