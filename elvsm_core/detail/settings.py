"""What the detail stage can be told."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class DetailSettings:
    """How depth is searched for, and when the keyframes' pixels are believed.

    Differences of colour are means over the channels of values in [0, 1].

    coarse, fine: size of a level's pixel in pixels of the answer; all planes are searched at the coarse one.
    coarse_planes, fine_planes: inverse depths tried there. Those of the fine level lie where the coarse one found
    surfaces.
    overlap: the nearest plane is the nearest one at which two keyframes still see this share of the picture.
    window: radius of the box that differences are averaged over, pixels of a level.
    truncation: the largest difference that counts. doubt: difference from the network's render at which a keyframe
    has a third of its say, because something hides the place from it.
    guidance: weight of the difference from the network's render beside that between keyframes.
    smooth, jump: penalties of the semi-global aggregation for a step of one plane and of more; a jump costs less
    where the render has an edge (`edge`: difference of neighbouring pixels). softness: temperature of the minimum.
    gain_limit: exposures of keyframes are corrected by this factor at most.
    nearness: how much faster than the nearest keyframe others lose weight with their distance from the target.
    agreement: as `doubt`, for the weights of colours.
    tolerance, blur: difference of the keyframes' picture and the render, both blurred (standard deviation in pixels
    for each 256 of the picture's width), at which the former loses a third of its weight... of e.
    """

    coarse: int = 4
    fine: int = 2
    coarse_planes: int = 64
    fine_planes: int = 32
    overlap: float = 0.2
    window: int = 2
    truncation: float = 0.3
    noise: float = 0.0
    doubt: float = 0.06
    guidance: float = 1.0
    smooth: float = 0.01
    jump: float = 0.12
    edge: float = 0.08
    softness: float = 0.02
    gain_limit: float = 1.5
    nearness: float = 3.0
    agreement: float = 0.05
    tolerance: float = 0.06
    blur: float = 2.0
    spread: float = 0.1
    alone: float = 0.5
