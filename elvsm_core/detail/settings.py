"""What the detail stage can be told."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class DetailSettings:
    """How depth is searched for, and when the keyframes' pixels are believed.

    Differences of colour are means over the channels of values in [0, 1].

    max_views: keyframes that a target is made of, at most.
    coarse, fine: a pixel of these levels in pixels of the answer; coarsest: the least pixels of a level's shorter side.
    coarse_planes, fine_planes: inverse depths tried at each; the fine ones lie where the coarse level saw surfaces.
    overlap: the nearest plane is the nearest one at which two keyframes still see this share of the picture.
    window: radius of the box that differences are averaged over, pixels of a level.
    truncation: the largest difference that counts.
    doubt: difference from the network's render at which a keyframe loses 1 - 1/e of its say about depth.
    guidance: weight of the difference from the network's render beside that between keyframes.
    smooth, jump: penalties of the semi-global aggregation for a step of one plane and for more; a jump costs less
    where the render has an edge (`edge`: difference of neighbouring pixels).
    softness: differences of cost that are taken for noise when neighbouring planes are averaged.
    gain_limit: exposures of keyframes are corrected by this factor at most.
    align_rounds, align_steps: how often depth is searched for again after so many Gauss-Newton steps of the poses.
    align_gain: fitted poses are used when the keyframes' variance among each other falls below this share.
    stiffness: share of the pixels' weight that holds a pose where it is.
    nearness: how fast keyframes lose weight with their distance from the target; agreement: the same for the
    difference of their colours from the render.
    tolerance, spread: differences from the render and among the keyframes at which confidence falls to 1/e, the
    former after a blur with a standard deviation of `blur` pixels for each 256 of the picture's longer side.
    alone: confidence where a single keyframe looks.
    noise: share of the keyframes' variance, over their squared change of the render, that confidence loses; both are
    blurred by `blur_noise` pixels. noise_limits: that quotient of the whole picture up to which this is all, and from
    which on nothing is believed.
    evidence: mean confidence up to which nothing is believed, and from which on all is.
    """

    max_views: int = 8
    coarse: int = 4
    fine: int = 2
    coarsest: int = 24
    coarse_planes: int = 64
    fine_planes: int = 32
    overlap: float = 0.2
    window: int = 2
    truncation: float = 0.3
    doubt: float = 0.06
    guidance: float = 1.0
    smooth: float = 0.01
    jump: float = 0.12
    edge: float = 0.08
    softness: float = 0.02
    gain_limit: float = 1.5
    nearness: float = 3.0
    agreement: float = 0.05
    tolerance: float = 0.05
    blur: float = 2.0
    spread: float = 0.06
    alone: float = 0.3
    align_rounds: int = 2
    align_steps: int = 3
    align_gain: float = 0.6
    stiffness: float = 0.01
    noise: float = 0.25
    blur_noise: float = 3.0
    noise_limits: tuple[float, float] = (0.5, 0.7)
    evidence: tuple[float, float] = (0.35, 0.6)
