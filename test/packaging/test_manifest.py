"""package.xml, CMakeLists.txt and pyproject.toml say the same, and name all that is imported."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import elvsm_core

catkin_pkg = pytest.importorskip("catkin_pkg.package", reason="needs the extra [ros]: run make")
tomllib = pytest.importorskip(
    "tomllib" if sys.version_info >= (3, 11) else "tomli",
    reason="needs tomli on Python 3.10: pip install tomli",
)

OWN = {"elvsm", "elvsm_core", "elvsm_report", "elvsm_ros", "elvsm_training", "training"}
# Python module: the package.xml dependency or the PyPI package that brings it, where the names differ.
ROS_NAMES = {
    "PIL": "python3-pil",
    "cv2": "python3-opencv",
    "numpy": "python3-numpy",
    "scipy": "python3-scipy",
    "yaml": "python3-yaml",
}
PYPI_NAMES = {
    "PIL": "pillow",
    "cv2": "opencv-python-headless",
    "imageio_ffmpeg": "imageio-ffmpeg",
    "skimage": "scikit-image",
    "yaml": "pyyaml",
}


@pytest.fixture(scope="module")
def package(repository: Path):
    return catkin_pkg.parse_package(str(repository / "package.xml"))


@pytest.fixture(scope="module")
def project(repository: Path) -> dict:
    return tomllib.loads((repository / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def cmake(repository: Path) -> str:
    return (repository / "CMakeLists.txt").read_text()


def imported(*folders: Path) -> dict[str, str]:
    """Return the modules imported from elsewhere: name -> the file that imports it.

    Not those that a file can do without: it says what to install when they are missing.
    """
    found: dict[str, str] = {}
    for path in (path for folder in folders for path in folder.rglob("*.py")):
        tree = ast.parse(path.read_text())
        optional = {
            line
            for node in ast.walk(tree)
            if isinstance(node, ast.Try) and any("ImportError" in ast.dump(h) for h in node.handlers)
            for line in node.body
        }
        for node in ast.walk(tree):
            if node in optional:
                continue
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                names = [node.module]
            else:
                continue
            found.update((name.partition(".")[0], path.name) for name in names)
    return {name: at for name, at in found.items() if name not in sys.stdlib_module_names | OWN}


def requirements(project: dict, *extras: str) -> set[str]:
    """Return the PyPI packages that the project and these extras ask for."""
    texts = project["dependencies"] + [t for e in extras for t in project["optional-dependencies"][e]]
    return {re.sub(r"[-_.]+", "-", Requirement(text).name).lower() for text in texts}


def test_the_versions_agree(package, project: dict) -> None:
    assert package.version == project["version"] == elvsm_core.__version__
    assert package.licenses == [project["license"]]


def test_the_package_is_an_interface_package_built_by_ament_cmake(package) -> None:
    assert package.get_build_type() == "ament_cmake"
    assert [group.name for group in package.member_of_groups] == ["rosidl_interface_packages"]


def test_cmake_finds_only_declared_packages(package, cmake: str) -> None:
    declared = {d.name for d in package.build_depends + package.buildtool_depends}
    assert set(re.findall(r"find_package\((\w+)", cmake)) <= declared


def test_cmake_builds_every_interface_and_installs_every_executable(
    repository: Path, cmake: str, executables: set[str]
) -> None:
    interfaces = {
        f"{path.parent.name}/{path.name}"
        for kind in ("msg", "srv", "action")
        for path in (repository / kind).glob(f"*.{kind}")
    }
    assert set(re.findall(r'"((?:msg|srv|action)/\w+\.\w+)"', cmake)) == interfaces
    assert set(re.findall(r"scripts/(\w+)", cmake)) == executables
    assert all(os.access(repository / "scripts" / name, os.X_OK) for name in executables)


def test_the_core_imports_what_pip_installs_without_extras(repository: Path, project: dict) -> None:
    # Triton comes with PyTorch's builds for CUDA, and elvsm_core.cuda.ops does without where it is missing.
    available = requirements(project) | {"triton"}
    for module, file in imported(repository / "elvsm_core").items():
        assert PYPI_NAMES.get(module, module).lower() in available, f"{file} imports {module}"


@pytest.mark.slow
def test_training_imports_what_its_extra_installs(repository: Path, project: dict) -> None:
    available = requirements(project, "train", "eval") | {
        "triton",
        "cupy",
    }  # as for the core; the mesh tracer on CUDA
    for module, file in imported(repository / "training").items():
        assert PYPI_NAMES.get(module, module).lower() in available, f"{file} imports {module}"


def test_the_node_imports_what_package_xml_or_pip_installs(repository: Path, package, project: dict) -> None:
    ros = {d.name for d in package.build_depends + package.exec_depends}
    pypi = requirements(project, "ros", "viewer")
    for module, file in imported(repository / "elvsm_ros", repository / "launch").items():
        names = {ROS_NAMES.get(module, module), PYPI_NAMES.get(module, module).lower()}
        assert names & (ros | pypi), f"{file} imports {module}, which no dependency brings"


def test_the_core_stays_below_the_node_and_the_training(repository: Path) -> None:
    for folder, above in {
        "elvsm_core": ("elvsm_report", "elvsm_ros", "elvsm_training", "training", "rclpy"),
        "elvsm_report": ("elvsm_ros", "elvsm_training", "training", "torch", "rclpy"),
        "training": ("elvsm_ros", "elvsm_training", "training", "rclpy"),  # itself by relative imports alone
        "elvsm_ros": ("training",),
    }.items():
        for path in (repository / folder).rglob("*.py"):
            for module in above:
                assert not re.search(rf"^\s*(from|import) {module}\b", path.read_text(), re.M), (
                    f"{path}: {module}"
                )


@pytest.mark.slow
def test_node_and_viewer_do_without_the_training() -> None:
    pytest.importorskip("rclpy", reason="needs the ROS packages: run make")
    pytest.importorskip("viser", reason="needs the extra [viewer]: run make")
    code = (
        "import sys, elvsm_ros.node, elvsm_ros.viewer.run, elvsm_ros.evaluation.evaluate_bag, elvsm_ros.client\n"
        "print(sorted(m for m in sys.modules if m.partition('.')[0] in ('training', 'elvsm_training')))"
    )
    result = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "[]"


@pytest.mark.slow
def test_a_clone_has_every_module_of_the_training_once(repository: Path) -> None:
    code = (
        "import elvsm_training, elvsm_training.data.store, training.data.store, training.losses.vgg\n"
        "import elvsm_training.losses.vgg as vgg\n"
        "assert elvsm_training is training and elvsm_training.data.store is training.data.store\n"
        "assert vgg is training.losses.vgg and vgg.__spec__.name == 'training.losses.vgg'\n"
        "try:\n    import elvsm_training.nowhere\nexcept ModuleNotFoundError: print('gone')"
    )
    result = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, cwd=repository)
    assert (result.returncode, result.stdout) == (0, "gone\n"), result.stderr


def test_the_generated_interfaces_have_the_fields_of_their_files(repository: Path) -> None:
    if importlib.util.find_spec("elvsm") is None:
        pytest.skip("needs the compiled interfaces: run make")
    kinds = {
        path.stem: getattr(importlib.import_module(f"elvsm.{folder}"), path.stem)
        for folder in ("msg", "srv", "action")
        for path in repository.glob(f"{folder}/*.{folder}")
    }
    assert len(kinds) >= 7
    parts = {"msg": [""], "srv": ["Request", "Response"], "action": ["Goal", "Result", "Feedback"]}
    for path in [p for folder in parts for p in repository.glob(f"{folder}/*.{folder}")]:
        texts = path.read_text().split("---\n")
        for part, text in zip(parts[path.parent.name], texts, strict=True):
            kind = getattr(kinds[path.stem], part) if part else kinds[path.stem]
            fields = re.findall(r"^[\w/\[\]]+ +(\w+)\b(?!=)", text, re.M)
            assert list(kind.get_fields_and_field_types()) == fields, (
                f"{kind} is out of date: run make interfaces"
            )


@pytest.mark.slow
def test_setting_up_says_what_to_install(repository: Path) -> None:
    script = repository / "tools" / "check_machine.sh"
    result = subprocess.run([script, "python3.999"], text=True, capture_output=True)
    assert result.returncode == 1
    assert re.search(
        r"sudo apt-get .*install -y python3\.999 python3\.999-venv python3\.999-dev", result.stderr
    )


@pytest.mark.slow
def test_setting_up_accepts_this_machine(repository: Path) -> None:
    script = repository / "tools" / "check_machine.sh"
    result = subprocess.run([script, sys.executable], text=True, capture_output=True)
    assert (result.returncode, result.stderr) == (0, "")
