"""Detail from the keyframes' pixels, guided by the network's render. Start with `stage.py`."""

from .settings import DetailSettings
from .stage import Detail, add_detail
from .warp import View

__all__ = ["Detail", "DetailSettings", "View", "add_detail"]
