"""Processes that a program starts, watches and leaves none of behind, and the network that they share."""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

GRACE = 1.2
"""Seconds that processes get to end by themselves."""

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


class ProcessDied(RuntimeError):
    """A process ended that should have gone on. The text holds its status and its last lines."""


def private_environment(domain: int | None = None) -> dict[str, str]:
    """Return the environment for ROS processes that nobody else on the network sees.

    domain: ROS_DOMAIN_ID; None: a free one. What is set already of ament's and Fast DDS's settings stays.
    """
    environment = dict(os.environ)
    environment["ROS_DOMAIN_ID"] = str(free_domain() if domain is None else domain)
    environment["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    # Fast DDS's default shared-memory segment loses images of 640x480 and above.
    environment.setdefault("FASTDDS_BUILTIN_TRANSPORTS", "LARGE_DATA")
    # The ROS packages of PyPI take the virtual environment as their prefix, but do not say so.
    environment.setdefault("AMENT_PREFIX_PATH", sys.prefix)
    # Discovery on this machine alone switches LARGE_DATA off; the profile has what both are for.
    profile = localhost_profile(environment["AMENT_PREFIX_PATH"])
    if profile is not None:
        environment.setdefault("FASTDDS_DEFAULT_PROFILES_FILE", str(profile))
    # They share the cores: a thread that spins while it waits for another takes that one's time.
    environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    environment["PYTHONUNBUFFERED"] = "1"
    return environment


def localhost_profile(prefixes: str) -> Path | None:
    """Return the Fast DDS profile for traffic within this machine: of a checkout, or below an ament prefix."""
    name = "fastdds_localhost.xml"
    places = [Path(__file__).parents[2] / "config" / name]
    places += [Path(prefix) / "share" / "elvsm" / "config" / name for prefix in prefixes.split(os.pathsep)]
    return next((place for place in places if place.is_file()), None)


def free_domain() -> int:
    """Return a ROS domain that no participant on this machine uses."""
    # From 102 on the ports fall among Linux's ephemeral ones; 0 is the robot's.
    domains = list(range(1, 102))
    random.SystemRandom().shuffle(domains)
    for domain in domains:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind(("", 7400 + 250 * domain))  # where participants hear of each other (RTPS 9.6.1.1)
            except OSError:
                continue
            return domain
    raise RuntimeError("all ROS domains from 1 to 101 are in use on this machine")


class Child:
    """A process with a group and a log file of its own, that the kernel ends when this process dies.

    Start it from the main thread: its life is tied to the thread that starts it.
    """

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str], log: Path):
        self.name, self.log = name, log
        self._gone = False
        with open(log, "wb") as file:
            self._process = subprocess.Popen(
                list(command),
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C in a terminal reaches this process alone, which passes it on
                preexec_fn=_die_with_parent,
            )

    @property
    def pid(self) -> int:
        """Number of the process."""
        return self._process.pid

    @property
    def status(self) -> int | None:
        """Exit status, negative for a signal; None while it runs."""
        return self._process.poll()

    def check(self) -> None:
        """Raise ProcessDied when it has ended with another status than 0."""
        if self.status not in (None, 0):
            raise ProcessDied(self.obituary())

    def obituary(self) -> str:
        """Say how it ended, with the last lines of its log."""
        lines = self.log.read_text(errors="replace").splitlines()[-12:]
        how = "runs" if self.status is None else f"ended with status {self.status}"
        return "\n".join(
            [f"{self.name} {how}; the last lines of {self.log}:", *(f"  {line}" for line in lines)]
        )

    def signal(self, number: int) -> None:
        """Send a signal to the whole group, if there still is one."""
        if not self._gone:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    def kill(self) -> None:
        """End the whole group at once. The group may outlive its leader, when that has left somebody behind."""
        self.signal(signal.SIGKILL)
        self._gone = True  # from here on the number may be somebody else's
        self._process.wait()


def stop(children: Sequence[Child], grace: float = GRACE) -> None:
    """End processes and whatever they started: SIGINT, and SIGKILL for what is left after `grace` seconds.

    The last one started goes first, and the next when that has ended: participants that leave a DDS network at
    the same moment can get stuck in each other's farewells (Fast DDS 3.2).
    """
    end = time.monotonic() + grace
    for child in reversed(children):
        if child.status is None:
            child.signal(signal.SIGINT)
        turn = min(end, time.monotonic() + 0.6 * grace)
        while child.status is None and time.monotonic() < turn:
            time.sleep(0.01)
    for child in children:
        child.kill()


def _die_with_parent() -> None:
    # Between fork and exec: one system call, nothing that could wait for a lock.
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
