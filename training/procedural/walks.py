"""Camera walks through rooms: a robot's or a hand's, with steps and turns from tiny to large."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .rng import Dice
from .room import Room

MARGIN = 0.22  # metres between a camera and anything


def look(position: Tensor, yaw: Tensor, pitch: Tensor, roll: Tensor) -> Tensor:
    """Return c2w [..., 4, 4] (OpenCV axes, world z up) of cameras.

    position [..., 3] metres; yaw: heading, radians, counter-clockwise from +x seen from above; pitch: radians, up
    positive; roll: radians about the optical axis, clockwise in the image positive.
    """
    cy, sy, cp, sp = yaw.cos(), yaw.sin(), pitch.cos(), pitch.sin()
    zero = torch.zeros_like(cy)
    forward = torch.stack([cy * cp, sy * cp, sp], -1)
    right = torch.stack([sy, -cy, zero], -1)
    down = torch.linalg.cross(forward, right)
    c, s = roll.cos()[..., None], roll.sin()[..., None]
    right, down = c * right + s * down, c * down - s * right
    c2w = torch.zeros(*yaw.shape, 4, 4, device=yaw.device)
    c2w[..., :3, :] = torch.stack([right, down, forward, position], -1)
    c2w[..., 3, 3] = 1
    return c2w


def _log_uniform(u: Tensor, low: float, high: float) -> Tensor:
    return low * (high / low) ** u


def _smooth(dice: Dice, shape: tuple[int, ...], frames: Tensor) -> Tensor:
    """Draw smooth curves of unit size over frames [F] -> [B, *shape, F]: a sum of three slow waves."""
    u = dice(*shape, 3, 3)
    rate = 0.15 + 0.7 * u[..., 0:1]
    phase = 2 * math.pi * u[..., 1:2]
    weight = 0.3 + 0.7 * u[..., 2:3]
    return ((rate * frames + phase).sin() * weight).sum(-2) / 1.2


def draw_walks(room: Room, frames: int, dice: Dice, candidates: int = 6) -> tuple[Tensor, Room]:
    """Draw a walk of `frames` poses in each room, [B, frames, 4, 4] c2w, and remove furniture that is in its way.

    Of several candidate walks the one that meets the least furniture is taken. Spacing of neighbouring poses: about
    3 to 45 cm and 1 to 20 degrees, smoothly varying. Poses keep MARGIN to all objects and to the room's shell.
    """
    b, device, k = len(room), room.device, candidates
    steps = torch.arange(frames, device=device, dtype=torch.float32)
    u = dice(k, 16)
    stride = _log_uniform(u[..., 0], 0.04, 0.45)[..., None]
    turn = _log_uniform(u[..., 1], math.radians(1.5), math.radians(20))[..., None]
    mode = u[..., 2]
    turn = torch.where((mode < 0.2)[..., None], 2.0 * turn, turn)
    stride = torch.where((mode < 0.2)[..., None], 0.3 * stride, stride)  # turning on the spot
    pace = (0.6 + 0.5 * _smooth(dice, (k,), steps)).clamp(0.05, 1.5) * stride
    jitter = 0.75 + 0.5 * dice(k, frames)
    pace = pace * jitter
    steer = _smooth(dice, (k,), steps) * turn * jitter
    # Some walks keep turning to one side, the others sway.
    bias = (u[..., 3:4] < 0.4).float() * torch.where(u[..., 4:5] < 0.5, -0.8, 0.8) * turn
    yaw = 2 * math.pi * u[..., 5:6] + torch.cumsum(steer + bias, -1)
    # Direction of travel against the heading: forward, backward, sideways or anything.
    travel = u[..., 6:7]
    offset = torch.where(travel < 0.35, 0.0, torch.where(travel < 0.45, math.pi, 2 * math.pi * u[..., 7:8]))
    offset = torch.where(
        (travel > 0.45) & (travel < 0.75), torch.where(u[..., 7:8] < 0.5, 0.5, -0.5) * math.pi, offset
    )
    offset = offset + 0.25 * _smooth(dice, (k,), steps)
    half = room.size[:, None, None, :2] / 2 - MARGIN - 0.1
    start = (dice(k, 1, 2) * 2 - 1) * half
    way = torch.stack([(yaw + offset).cos() * pace, (yaw + offset).sin() * pace], -1)
    path = start + torch.cumsum(way, 2) - way[:, :, :1]
    path = _fold(path, half)
    # Orbits look at one thing all the time.
    target = (dice(k, 1, 2) * 2 - 1) * half
    aim = target - path
    orbit = (mode > 0.65)[..., None] & (aim.norm(dim=-1) > 0.5).all(-1, keepdim=True)
    yaw = torch.where(orbit, torch.atan2(aim[..., 1], aim[..., 0]) + 0.1 * _smooth(dice, (k,), steps), yaw)
    height = (
        0.4 + 1.4 * u[..., 8:9] ** 0.6 + 0.3 * stride * _smooth(dice, (k,), steps) + 0.01 * dice(k, frames)
    )
    height = height + torch.where(u[..., 9:10] < 0.3, 0.25 * stride, 0.0) * (steps - frames / 2) * (
        u[..., 10:11] - 0.5
    )
    height = height.clamp(0.3, 2.0).minimum(room.size[:, None, None, 2] - MARGIN - 0.05)
    pitch = math.radians(-12) + math.radians(32) * (u[..., 11:12] + u[..., 12:13] - 1)
    pitch = pitch + math.radians(7) * (0.15 + u[..., 13:14]) * _smooth(dice, (k,), steps)
    roll = math.radians(7) * u[..., 14:15] ** 2 * _smooth(dice, (k,), steps)
    tremble = (dice(k, frames, 3) - 0.5) * (0.03 * u[..., 15:16, None])
    position = torch.cat([path, height[..., None]], -1)
    poses = look(position, yaw + tremble[..., 0], pitch + tremble[..., 1], roll + tremble[..., 2])
    near = room.clearance(position.reshape(b, -1, 3)).reshape(b, k, frames, -1).amin(2) < MARGIN
    # Rather not a metre of wall filling the view all the time.
    ahead = position + 1.1 * poses[..., :3, 2]
    outside = (ahead[..., :2].abs() > room.size[:, None, None, :2] / 2).any(-1)
    inside = room.clearance(ahead.reshape(b, -1, 3)).amin(-1).reshape(b, k, frames) < 0.05
    cost = near.float().sum(-1) + 4 * (outside | inside).float().mean(-1)
    best = cost.argmin(1)
    chosen = torch.arange(b, device=device)
    poses = poses[chosen, best]
    return poses, room.without_obstacles(poses[:, :, :3, 3], MARGIN)


def _fold(path: Tensor, half: Tensor) -> Tensor:
    """Reflect a path at the walls, as a billiard ball."""
    span = 2 * half
    x = torch.remainder(path + half, 2 * span)
    return torch.where(x > span, 2 * span - x, x) - half


def draw_intrinsics(dice: Dice, views: int, size: tuple[int, int], fov: tuple[float, float]) -> Tensor:
    """Draw fx, fy, cx, cy, pixels of an image of size (H, W): [B, views, 4], the same for all views of a room.

    fov: range of the horizontal field of view, degrees; small angles are more frequent, as the focal length is
    log-uniform.
    """
    height, width = size
    u = dice(4)
    long, short = (0.5 / math.tan(math.radians(f) / 2) for f in fov)
    focal = width * _log_uniform(u[:, 0], short, long)
    fy = focal * (1 + 0.01 * (u[:, 1] - 0.5))
    cx = width * (0.5 + 0.04 * (u[:, 2] - 0.5))
    cy = height * (0.5 + 0.08 * (u[:, 3] - 0.5))
    return torch.stack([focal, fy, cx, cy], -1)[:, None].expand(-1, views, -1)


def stroll(
    room: Room, frames: int, generator: torch.Generator, step: float, turn: float
) -> tuple[Tensor, Room]:
    """Draw a long smooth walk through ONE room, [1, frames, 4, 4] c2w, and the room without what is in its way.

    step, turn: the most that neighbouring poses are apart, metres and degrees. The camera follows a closed curve
    around the room's middle and mostly looks along it, with slow glances to the sides.
    """
    half = (room.size[0, :2] / 2 - MARGIN - 0.35).clamp_min(0.2).cpu()
    fine = torch.arange(60 * frames, dtype=torch.float64)
    u = torch.rand(12, generator=generator, dtype=torch.float64)
    radius = (0.55 + 0.3 * u[0]) * half.double()
    speed = step / 20 / float(radius.norm()) / 1.3
    angle = 2 * math.pi * u[1] + speed * fine
    wobble = 1 + 0.25 * (2.3 * angle + 6 * u[2]).sin()
    path = torch.stack([radius[0] * angle.cos() * wobble, radius[1] * angle.sin() * wobble], -1)
    way = path[1:] - path[:-1]
    way = torch.cat([way, way[-1:]])
    heading = torch.atan2(way[:, 1], way[:, 0])
    heading = heading[0] + torch.cumsum(
        torch.remainder(torch.diff(heading, prepend=heading[:1]) + math.pi, 2 * math.pi) - math.pi, 0
    )
    glance = 0.5 * (angle * 3.1 + 6 * u[3]).sin() + 0.35 * (angle * 1.7 + 6 * u[4]).sin()
    yaw = heading + glance
    # Frames are cut where either limit is reached, at most 20 fine steps apart.
    cost = torch.maximum(way.norm(dim=-1) / step, torch.diff(yaw, prepend=yaw[:1]).abs() / math.radians(turn))
    travelled = torch.cumsum(cost, 0)
    index = torch.searchsorted(travelled, torch.arange(frames, dtype=torch.float64)).clamp(max=len(fine) - 1)
    path, yaw, angle = path[index], yaw[index], angle[index]
    height = (1.15 + 0.45 * u[5] + 0.04 * (5 * angle).sin()).clamp(max=float(room.size[0, 2]) - 0.3)
    pitch = math.radians(-10) + math.radians(8) * (2.7 * angle + 6 * u[6]).sin()
    roll = math.radians(1.5) * (4.1 * angle).sin()
    position = torch.cat([path, height[:, None]], -1)
    c2w = look(position.float(), yaw.float(), pitch.float(), roll.float())[None].to(room.device)
    return c2w, room.without_obstacles(c2w[:, :, :3, 3], MARGIN)
