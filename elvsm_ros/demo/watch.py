"""Follow a walk: ask the node for held-out views while the camera moves on."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray
from rich.progress import Progress

from elvsm_ros import NodeUnavailable, RenderedViews
from elvsm_ros.conversions import RGB
from elvsm_ros.demo.heldout import Thresholds, TrueView, Walked, fit, psnr
from elvsm_ros.demo.options import DemoOptions
from elvsm_ros.demo.results import DemoResults, HeldOutView
from elvsm_ros.input.camera_input import T_body_cam
from elvsm_ros.parameters.table import Settings
from elvsm_ros.recordings.bag_reader import SECOND, Bag, BagError, PosedFrames, PosedImage, Streams
from elvsm_ros.recordings.bag_tf import Ends, open_tf
from elvsm_ros.tools.playback_client import PlaybackClient
from elvsm_ros.tools.processes import Child

TICK = 0.03
FEW = 4
"""As many held-out views are asked for afterwards, if a short walk was over before a busy node had rendered them."""


class Watch:
    """The client's knowledge of a walk that is being played: what has passed, what the node keeps of it.

    processes: node and player. Raises BagError for a recording without a single image whose pose is known.
    """

    def __init__(
        self,
        options: DemoOptions,
        client: PlaybackClient,
        bag: Bag,
        streams: Streams,
        ends: Ends | None,
        processes: Sequence[Child],
    ):
        self.client, self.size = client, (0, 0)
        self._options, (self._node, self._player) = options, processes
        settings = Settings(body_to_camera=options.body_to_camera)
        body = T_body_cam(settings)
        seconds = options.seconds if options.bag is not None else None
        tf = None if ends is None else partial(open_tf, bag, streams.static, ends, body)
        self.frames = PosedFrames(bag, streams, body, settings.pose_gap, seconds, tf)
        thresholds = Thresholds(settings.keyframe_distance, math.radians(settings.keyframe_angle))
        frames = iter(self.frames)
        first = next(frames, None)
        if first is None:
            reasons = (
                ", ".join(f"{reason} ({count})" for reason, count in self.frames.skipped.items())
                or "no images"
            )
            raise BagError(
                f"{bag.path}: no image on {streams.image.name} has a pose on {streams.pose.name}: {reasons}; "
                f"the stamps of both must be of the same clock"
            )
        self._start = first.stamp
        self._length = (bag.duration if seconds is None else min(seconds, bag.duration)) or 1.0
        self.walked = Walked(itertools.chain([first], frames), thresholds)
        self._views: list[HeldOutView] = []

    def follow(self, progress: Progress) -> DemoResults:
        """Ask for held-out views until the player has ended. Raises ProcessDied, SceneClientError, BagError."""
        task = progress.add_task("", total=round(self._length), note="s")
        asked = 0  # stamp: the clock when a view was last asked for
        while self._player.status is None:
            self._node.check()
            self.look()
            clock = self.client.clock
            if clock - asked >= self._options.every * SECOND and self._measure(clock):
                asked = clock
            seconds = max(0.0, min((clock - self._start) / SECOND, self._length))
            progress.update(task, completed=round(seconds), note=self._note())
            time.sleep(TICK)
        self._player.check()
        progress.update(task, completed=round(self._length), note=self._note())
        self.client.settle(self.look)
        if not self.walked.path and not len(self.client.last_keyframes.poses):
            raise NodeUnavailable("the recording was played, but nothing of it arrived over the network")
        self._catch_up()
        status = self.client.newest_status
        return DemoResults(
            self._views,
            self.client.last_keyframes.poses,
            np.stack(self.walked.path),
            status.images_received,
            status.images_dropped,
        )

    def _catch_up(self) -> None:
        """Ask for a few views of a walk that was over before more of them could be rendered.

        All of it has been played by now, whether the messages that tell so arrived or not.
        """
        end = self._start + round(self._length * SECOND)
        self.walked.advance(end)
        self.look()
        while len(self._views) < FEW and self._measure(end):
            self._node.check()

    def _measure(self, clock: int) -> bool:
        """Ask for a held-out view after the last one and up to a stamp, and tell whether there was one."""
        after = self._start + round(self._views[-1].time * SECOND) if self._views else 0
        view = self._ask(after, clock)
        if view is not None:
            self._views.append(view)
        return view is not None

    def look(self) -> None:
        """Take note of what has gone over the network since the last look."""
        self.walked.advance(self.client.clock)
        self.walked.learn(self.client.last_keyframes.poses)

    def render(self, frame: PosedImage) -> tuple[TrueView, RenderedViews]:
        """Return a frame as the model would see it, and the node's render of that with the same camera."""
        truth = fit(frame, self.size)
        return truth, self.client.render_views(
            [frame.T_world_cam], truth.camera, max_views=self._options.max_views
        )

    def nearest(self, frame: PosedImage) -> tuple[RGB | None, float]:
        """Return the image of the keyframe that is nearest to a frame, and its distance in metres."""
        keyframes = self.client.last_keyframes.poses
        T = keyframes[self.walked.nearest(frame.T_world_cam, keyframes)[0]]
        metres = float(np.linalg.norm(T[:3, 3] - frame.T_world_cam[:3, 3]))
        return self.walked.keyframe_image(T, self.size), metres

    def is_keyframe(self, frame: PosedImage) -> bool:
        """Tell whether a frame is among the node's keyframes now."""
        return self.walked.is_keyframe(frame, self.client.last_keyframes.poses)

    def _ask(self, after: int, clock: int) -> HeldOutView | None:
        keyframes = self.client.last_keyframes.poses
        frame = self.walked.candidate(keyframes, after, clock)
        if frame is None:
            return None
        if self.size == (0, 0):
            # Asked without a camera, the node answers at its model's own size.
            height, width = self.client.render(frame.T_world_cam).shape[:2]
            self.size = (height, width)
        copy, metres = self.nearest(frame)
        if copy is None:
            return None
        truth, reply = self.render(frame)
        self.look()
        if self.is_keyframe(frame):  # it became one while it was rendered
            return None
        return self._measured(truth, reply, copy, metres, keyframes)

    def _measured(
        self, truth: TrueView, reply: RenderedViews, copy: RGB, metres: float, keyframes: NDArray[np.float64]
    ) -> HeldOutView:
        image = reply.images[0]
        return HeldOutView(
            (truth.stamp - self._start) / SECOND,
            truth.T_world_cam,
            truth.image,
            image,
            copy,
            psnr(image, truth.image),
            psnr(copy, truth.image),
            reply.round_trip_ms,
            reply.latency_ms,
            reply.support[0],
            len(keyframes),
            reply.views_used,
            metres,
        )

    def _note(self) -> str:
        note = f"s, {len(self.client.last_keyframes.poses)} keyframes"
        if self._views:
            render = np.mean([v.psnr_render for v in self._views])
            copy = np.mean([v.psnr_nearest for v in self._views])
            note += f", {len(self._views)} renders {render:.1f} dB, copies {copy:.1f}"
        return note
