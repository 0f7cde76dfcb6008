"""Text from outside, as messages to people show it: short, and without anything that a terminal would obey."""

from __future__ import annotations

LONGEST = 80
"""Characters of a text from outside that are shown."""
LONGEST_MESSAGE = 1000
LONGEST_FRAME = 255
"""Characters of the name of a frame: as many as a topic's."""


def quoted(text: object) -> str:
    """Return a text in quotes, LONGEST characters of it at most, with escapes for what cannot be printed."""
    whole = str(text)
    if len(whole) <= LONGEST:
        return repr(whole)
    return f"{whole[:LONGEST]!r}... ({len(whole)} characters)"


def printable(message: str) -> str:
    """Return a message in one line that is not longer than LONGEST_MESSAGE, with escapes as `quoted` has them."""
    cut = message[:LONGEST_MESSAGE] + ("..." if len(message) > LONGEST_MESSAGE else "")
    if cut.isprintable():
        return cut
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in cut)
