"""config/elvsm.yaml, made of the table that the node declares its parameters from.

`python -m elvsm_ros.parameters.yaml_file > config/elvsm.yaml`
"""

from __future__ import annotations

import textwrap

from elvsm_ros.parameters.row import Value
from elvsm_ros.parameters.table import table


def yaml_text() -> str:
    """Return the file: every parameter with its default, what it means and what it may be."""
    lines = [
        "# Parameters of elvsm_node, all at their defaults. Made by: python -m elvsm_ros.parameters.yaml_file",
        "# (live) marks what `ros2 param set` may change at run time.",
        "/**:",
        "  ros__parameters:",
    ]
    for row in table():
        lines += ["    # " + text for text in textwrap.wrap(row.meaning + " (live)" * row.live, 100)]
        lines.append(f"    {row.name}: {_yaml(row.default)}")
    return "\n".join(lines) + "\n"


def _yaml(value: Value) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, tuple):
        return "[" + ", ".join(_yaml(v) for v in value) + "]"
    return repr(value)


if __name__ == "__main__":
    print(yaml_text(), end="")
