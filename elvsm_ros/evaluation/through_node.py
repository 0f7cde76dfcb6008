"""The recording once more, played over DDS into the real node: what is lost on the way, and what that costs.

Held-out frames are asked for through ~/render_views, each when its image has gone by (online), and all of them when
the recording is over (offline). What the node's own keyframes explain of the difference to the replay in this process
is found by rendering from exactly those keyframes here.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

import elvsm_core as ec
from elvsm_ros import RenderedViews
from elvsm_ros.conversions import RGB
from elvsm_ros.device_scene import make_scene
from elvsm_ros.evaluation.baselines import mean, psnr
from elvsm_ros.evaluation.options import EvaluationOptions
from elvsm_ros.evaluation.replay import Complaints, Recording, replay
from elvsm_ros.evaluation.results import OFFLINE, ONLINE, RENDER, HeldOutFrame, NodeRun
from elvsm_ros.parameters.table import Settings
from elvsm_ros.recordings.bag_reader import SECOND
from elvsm_ros.tools.node_process import NODE_TIMEOUT, clock, start_node, start_player
from elvsm_ros.tools.playback_client import PlaybackClient
from elvsm_ros.tools.processes import Child, stop

PATIENCE = 1.0
"""Seconds that the node gets to make a keyframe of an image before the frames after it are asked for anyway."""
LATE = 3.0
"""Seconds behind the player after which a frame is not asked for any more: online would mean something else."""
NODE, HERE, SAME = "node", "here", "here_same_keyframes"


@dataclasses.dataclass(eq=False)
class Asked:
    """A held-out frame and what came of it, PSNR in dB by (column, NODE, HERE or SAME).

    kept: stamps of the node's keyframes when the frame was asked for. overtaken: there were more when it was answered.
    """

    view: HeldOutFrame
    kept: tuple[int, ...] | None = None
    overtaken: bool = False
    psnr: dict[tuple[str, str], float] = dataclasses.field(default_factory=dict)


class NodeCheck:
    """Play a recording into the node and ask it for held-out frames; `run` does it.

    model: to render here with; settings and options: the evaluation's, which the node gets. tell: progress.
    """

    def __init__(
        self,
        source: Recording,
        settings: Settings,
        options: EvaluationOptions,
        model: ec.EfficientLVSM,
        tell: Callable[[str, int, int], None],
    ):
        self._source, self._settings, self._options = source, settings, options
        self._model, self._tell = model, tell
        self._replies: list[RenderedViews] = []
        self._late = 0

    def run(self, views: Sequence[HeldOutFrame], inserted: Sequence[int], kept: Sequence[int]) -> NodeRun:
        """Compare with the replay in this process.

        views: its held-out frames. inserted: stamps of all its keyframes, oldest first; kept: of those that it had
        at the end. Raises SceneClientError, ProcessDied.
        """
        asked = [Asked(view) for view in views]
        streams, children = self._source.streams, []  # type: tuple[Any, list[Child]]
        topic, kind = clock(streams)
        with contextlib.ExitStack() as stack:
            stack.callback(stop, children)
            folder = self._options.out
            node = start_node(streams, self._options.parameters, folder, children, self._options.rate)
            # It leaves the network before the others, for the reason that `stop` gives: one of them that gets
            # stuck in its farewell can be killed.
            client = stack.enter_context(PlaybackClient(topic, node.check, kind))
            client.wait_until_ready(NODE_TIMEOUT)
            options = self._options
            player = start_player(
                self._source.bag, streams, self._source.ends, folder, children, options.rate, options.seconds
            )
            self._follow(client, player, asked, inserted)
            player.check()
            client.settle(timeout=60.0)
            node_kept, status = client.last_keyframes.stamps, client.newest_status
            self._ask_again(client, asked, set(node_kept))
            images = sum(asked_at <= client.clock for asked_at in client.seen)
            latency = self._latency(client)
        self._explain(asked, inserted, kept, node_kept, status.keyframes_evicted == 0)
        counts = {
            "played": min(images, streams.image.count),
            "received": status.images_received,
            "dropped": status.images_dropped,
            "rejected": status.images_rejected,
            "keyframes": len(node_kept),
            "keyframes_here": len(kept),
            "asked": sum(a.kept is not None for a in asked),
            "too_late": self._late,
            "overtaken": sum(a.overtaken for a in asked),
            "compared": sum((OFFLINE, NODE) in a.psnr for a in asked),
        }
        start = views[0].stamp - round(views[0].time * SECOND)
        return NodeRun(
            rate=options.rate,
            counts=counts,
            psnr={c: {w: mean(_values(asked, c, w)) for w in (NODE, HERE, SAME)} for c in (ONLINE, OFFLINE)},
            missing=[(s - start) / SECOND for s in sorted(set(kept) - set(node_kept))],
            extra=[(s - start) / SECOND for s in sorted(set(node_kept) - set(kept))],
            latency_ms=latency,
            frames=[_line(a) for a in asked],
        )

    # While the recording is played, and after it

    def _follow(
        self, client: PlaybackClient, player: Child, asked: Sequence[Asked], inserted: Sequence[int]
    ) -> None:
        waiting = collections.deque(sorted(asked, key=lambda a: a.view.stamp))
        total = len(waiting)
        while waiting:
            over = player.status is not None
            item = waiting[0]
            if item.view.stamp > client.clock:
                if over:
                    return
                client.check()
                time.sleep(0.005)
                continue
            waiting.popleft()
            self._tell("through the node", total - len(waiting), total)
            gone_by = time.monotonic() - client.seen.get(item.view.stamp, client.newest_seen)
            if gone_by > LATE:
                self._late += 1
                continue
            # The keyframe before it may still be on its way to the device.
            before = inserted[item.view.keyframes - 1]
            end = time.monotonic() + PATIENCE
            while before not in client.kept_at and time.monotonic() < end:
                client.check()
                time.sleep(0.005)
            item.kept = client.last_keyframes.stamps
            if not item.kept:
                item.kept = None
                continue
            reply = self._request(client, item.view)
            item.overtaken = client.last_keyframes.stamps != item.kept
            self._replies.append(reply)
            item.psnr[ONLINE, NODE] = psnr(reply.images[0], item.view.truth)

    def _ask_again(self, client: PlaybackClient, asked: Sequence[Asked], kept: set[int]) -> None:
        """Ask for all frames once more, now that everything has been seen; not for the node's own keyframes."""
        for done, item in enumerate(asked, 1):
            if item.view.stamp not in kept and kept:
                image = self._request(client, item.view).images[0]
                item.psnr[OFFLINE, NODE] = psnr(image, item.view.truth)
            self._tell("node, afterwards", done, len(asked))

    def _request(self, client: PlaybackClient, view: HeldOutFrame) -> RenderedViews:
        return client.render_views([view.camera.T_world_cam], view.camera)

    def _latency(self, client: PlaybackClient) -> dict[str, float]:
        """Return what differs between runs: of requests while playing, and from an image to its keyframe."""
        until_kept = [
            1e3 * (at - client.seen[stamp]) for stamp, at in client.kept_at.items() if stamp in client.seen
        ]
        found = {
            "round_trip": [reply.round_trip_ms for reply in self._replies],
            "in_the_node": [reply.latency_ms for reply in self._replies],
            "image_to_keyframe": until_kept,
        }
        return {
            f"{name}_p{p}": float(np.percentile(values, p))
            for name, values in found.items()
            if values
            for p in (50, 95)
        }

    # What explains the difference

    def _explain(
        self,
        asked: Sequence[Asked],
        inserted: Sequence[int],
        kept: Sequence[int],
        node_kept: tuple[int, ...],
        none_evicted: bool,
    ) -> None:
        """Fill in HERE, and SAME by rendering again where the node had other keyframes than the replay."""
        again: dict[int, list[Asked]] = collections.defaultdict(list)  # by number of keyframes inserted
        for item in asked:
            view = item.view
            for column in (ONLINE, OFFLINE):
                if (column, NODE) in item.psnr:
                    item.psnr[column, HERE] = view.psnr(RENDER, column)
            if (ONLINE, NODE) in item.psnr and item.kept is not None:
                if list(item.kept) == list(inserted[: view.keyframes]):
                    item.psnr[ONLINE, SAME] = item.psnr[ONLINE, HERE]
                elif none_evicted and item.kept == node_kept[: len(item.kept)]:
                    again[len(item.kept)].append(item)
        same = list(node_kept) == list(kept)
        for item in asked:
            if same and (OFFLINE, NODE) in item.psnr:
                item.psnr[OFFLINE, SAME] = item.psnr[OFFLINE, HERE]
        if not node_kept or (same and not again):
            return
        scene = make_scene(self._settings, self._model)
        pictures = self._pictures(set(node_kept), scene.image_size)
        for count, stamp in enumerate(node_kept, 1):
            if stamp in pictures:
                scene.insert(*pictures[stamp], stamp=stamp / SECOND)
            for item in again.get(count, ()):
                item.psnr[ONLINE, SAME] = self._psnr_here(scene, item.view)
            self._tell("same keyframes", count, len(node_kept))
        for item in asked:
            if not same and (OFFLINE, NODE) in item.psnr:
                item.psnr[OFFLINE, SAME] = self._psnr_here(scene, item.view)

    def _psnr_here(self, scene: ec.Scene, view: HeldOutFrame) -> float:
        return psnr(scene.render([view.camera], self._settings.max_views or None).images[0], view.truth)

    def _pictures(self, stamps: set[int], size: tuple[int, int]) -> Mapping[int, tuple[RGB, ec.Camera]]:
        """Return the images of some stamps with their cameras, at (height, width) pixels."""
        found = {}
        intake = self._source.intake(self._settings, Complaints().reports)
        for decision in replay(self._source, intake, self._options.seconds):
            candidate = decision.candidate
            if candidate.stamp in stamps:
                c = candidate.camera
                full = ec.Camera(c.fx, c.fy, c.cx, c.cy, c.width, c.height, candidate.T_world_cam)
                image, camera = ec.resize_and_crop(candidate.picture(), full, size)
                found[candidate.stamp] = image.numpy(), camera
        return found


def _values(asked: Sequence[Asked], column: str, where: str) -> list[float | None]:
    return [item.psnr[column, where] for item in asked if (column, where) in item.psnr]


def _line(item: Asked) -> dict[str, Any]:
    line: dict[str, Any] = {
        "index": item.view.index,
        "keyframes": None if item.kept is None else len(item.kept),
        "overtaken": item.overtaken,
    }
    return line | {f"{column}_{where}_psnr": value for (column, where), value in item.psnr.items()}
