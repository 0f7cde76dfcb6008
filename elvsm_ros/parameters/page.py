"""docs/parameters.md, made of the table that the node declares its parameters from.

`python -m elvsm_ros.parameters.page > docs/parameters.md`
"""

from __future__ import annotations

import inspect
import json
import re

from elvsm_ros.parameters import table
from elvsm_ros.parameters.table import ParameterRow, Settings

HEAD = """\
# Parameters

Made by `python -m elvsm_ros.parameters.page > docs/parameters.md` from the table that the node declares its parameters
from. The same as a file to edit: [`config/elvsm.yaml`](../config/elvsm.yaml).

*Live* ones change while the node runs (`ros2 param set /elvsm max_views 8`); a value that is no good is refused with
the reason. The others are read when the node is configured: `ros2 lifecycle set /elvsm deactivate`, `cleanup`, set the
parameter, `configure`, `activate`. *At start only*: nobody sets them over the network. A name that is nearly that
of a parameter is refused at start.

The QoS of every topic that the node reads can be overridden, with the topic's remapped name:
`qos_overrides./camera/image_raw.subscription.reliability: reliable` (also `durability`, `depth`, `history`).
`use_sim_time` is there as in every node.
"""


def groups() -> list[tuple[str, list[ParameterRow]]]:
    """Return the parameters by the headings that stand over them in the table."""
    rows = {row.name: row for row in table.table()}
    found: list[tuple[str, list[ParameterRow]]] = []
    for line in inspect.getsource(Settings).splitlines():
        heading = re.match(r"    # (\w.*)$", line)
        field = re.match(r"    (\w+): .*= parameter\(", line)
        if heading:
            found.append((heading[1], []))
        elif field and field[1] in rows:
            found[-1][1].append(rows.pop(field[1]))
    assert not rows, f"without a heading: {', '.join(rows)}"
    return [group for group in found if group[1]]


def page() -> str:
    """Return the page as Markdown."""
    parts = [HEAD]
    for heading, rows in groups():
        parts.append(f"## {heading}\n\n| parameter | default | live | meaning |\n| --- | --- | --- | --- |")
        parts += [_line(row) for row in rows]
        parts.append("")
    return "\n".join(parts)


def _line(row: ParameterRow) -> str:
    default = json.dumps(list(row.default) if isinstance(row.default, tuple) else row.default)
    live = "yes" if row.live else "at start only" if row.at_start else ""
    return f"| `{row.name}` | `{default}` | {live} | {row.meaning.replace('|', '/')} |"


if __name__ == "__main__":
    print(page(), end="")
