"""What can still be read of an mcap file that was cut off: the recorder was killed, or a disk was full.

Such a file lacks the index at its end, without which other readers refuse it. Here it is read from its beginning to
where it ends.
"""

from __future__ import annotations

import collections
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from mcap.records import Channel, Message, Schema
from mcap.stream_reader import StreamReader

from elvsm_ros.recordings.bounded_decompression import TooLargeError

SECOND = 1_000_000_000
LARGEST = 1 << 30
"""Bytes that a record may say it has: more are damage."""


class CutOffError(ValueError):
    """The end of what can be read."""


class Connection(NamedTuple):
    """A topic, the type of its messages, and how many of them there are."""

    topic: str
    msgtype: str
    msgcount: int


class CutOffFile:
    """An mcap file without its end, with that part of the interface of rosbags' readers that is used here.

    Making one reads the file once. Raises CutOffError when there is not a single message in it.
    """

    is2 = True

    def __init__(self, path: Path):
        self._path = path
        counts: collections.Counter[tuple[str, str]] = collections.Counter()
        self.start_time, self.end_time = 0, 0
        try:
            for topic, kind, time, _ in self._records():
                if not counts:
                    self.start_time = time
                counts[topic, kind] += 1
                self.end_time = max(self.end_time, time)
        except CutOffError:
            if not counts:
                raise
        self.connections = [Connection(topic, kind, count) for (topic, kind), count in counts.items()]
        self.topics = {connection.topic: connection for connection in self.connections}

    def messages(
        self, connections: Collection[Connection], stop: int | None = None
    ) -> Iterator[tuple[Connection, int, bytes]]:
        """Yield what there is, in the file's order, and raise CutOffError at its end.

        stop: nanoseconds; without what is recorded later, the end does not matter.
        """
        for topic, _, time, data in self._records():
            connection = self.topics[topic]
            if stop is not None and time >= stop:
                return
            if connection in connections:
                yield connection, time, data

    def close(self) -> None:
        """Do nothing: the file is open only while messages are read."""

    def _records(self) -> Iterator[tuple[str, str, int, bytes]]:
        """Yield topic, type, time and CDR of every message. Raises CutOffError at the end."""
        schemas: dict[int, Schema] = {}
        channels: dict[int, Channel] = {}
        last, first = None, 0
        with self._path.open("rb") as file:
            records = StreamReader(file, record_size_limit=LARGEST).records
            while True:
                try:
                    record = next(records)
                except StopIteration:
                    raise CutOffError("its index is damaged") from None
                except TooLargeError:
                    raise
                # struct.error, zstandard's and lz4's own: whatever half a record leads to.
                except Exception as error:
                    seconds = "" if last is None else f" after {(last - first) / SECOND:.1f} s"
                    raise CutOffError(f"it ends{seconds}, in the middle of a record") from error
                if isinstance(record, Schema):
                    schemas[record.id] = record
                elif isinstance(record, Channel):
                    channels[record.id] = record
                elif isinstance(record, Message):
                    channel = channels[record.channel_id]
                    first = record.log_time if last is None else first
                    last = record.log_time
                    yield channel.topic, schemas[channel.schema_id].name, record.log_time, record.data


def salvaged(path: Path) -> CutOffFile | None:
    """Return what can be read of a recording's only mcap file, None when that is nothing."""
    files = sorted(path.glob("*.mcap")) if path.is_dir() else [path]
    if len(files) != 1 or files[0].suffix != ".mcap":
        return None
    try:
        return CutOffFile(files[0])
    except (CutOffError, TooLargeError, OSError):
        return None
