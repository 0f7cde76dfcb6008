"""The program elvsm_node: signals are taken care of before the node is imported, which takes a second."""

from __future__ import annotations

from typing import NoReturn

from elvsm_ros import early_exit


def main() -> NoReturn:
    """Run the node as a process of its own."""
    early_exit.arm()
    from elvsm_ros import node

    node.main()
