"""The nodes of the fault cases: each is shared by many, and every case begins with a scene of two keyframes.

No node outlives its module: two at a time would hear each other's topics and answer each other's requests.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# For `bench`, which is no test and in no package.
sys.path.insert(0, str(Path(__file__).resolve().parent))

from bench import Bench


@pytest.fixture(scope="session")
def scene_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scenes")


@pytest.fixture(scope="module")
def raw_bench(small_model: Path, scene_folder: Path) -> Iterator[Bench]:
    bench = Bench(small_model, silence_warning=4.0, scene_directory=str(scene_folder))
    yield bench
    bench.close()


@pytest.fixture
def bench(raw_bench: Bench) -> Bench:
    raw_bench.begin()
    return raw_bench


@pytest.fixture(scope="module")
def compressed_bench(small_model: Path) -> Iterator[Bench]:
    bench = Bench(small_model, silence_warning=1.5, image_transport="compressed")
    yield bench
    bench.close()
