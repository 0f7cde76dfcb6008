"""In a clone: the folder training/ under the name that it is installed by, so that both names mean the same modules.

An installed elvsm has no module `training`, which anybody may want to call a package of their own, and not this file:
there `elvsm_training` is the folder itself.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from types import ModuleType

import training

REAL = "training"


class _SameModule(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds elvsm_training.x where training.x is, and as the very same module: classes must not exist twice."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        package, _, rest = fullname.partition(".")
        if package != __name__ or not rest or importlib.util.find_spec(f"{REAL}.{rest}") is None:
            return None
        return importlib.machinery.ModuleSpec(fullname, self)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        module = importlib.import_module(REAL + spec.name.removeprefix(__name__))
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None  # the other name's, which the import system has just put there
        module.__spec__ = module.__spec__.loader_state


sys.meta_path.insert(0, _SameModule())
sys.modules[__name__] = training
