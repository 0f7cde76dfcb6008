"""A bank of surface textures: paint, noise, dead leaves, wood, tiles, fabric, print and photographs.

Real rooms are mostly quiet surfaces with a few busy ones. The bank therefore covers the range from almost uniform
paint to print, and much of it follows the 1/f statistics of natural images. Every tile carries a full mip pyramid,
packed as 8-bit RGBX into one flat int32 tensor, so that a sample costs four gathers whatever its level.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

# Which kinds of tile there are, and their share of a bank.
SHARES: dict[str, float] = {
    "paint": 0.06,
    "noise": 0.14,
    "leaves": 0.22,
    "wood": 0.14,
    "tiles": 0.08,
    "fabric": 0.08,
    "print": 0.12,
    "photo": 0.16,
}
# scikit-image's bundled pictures that are in the public domain or CC0 (their docstrings say so).
PHOTOGRAPHS = ("astronaut", "coffee", "chelsea", "rocket", "brick", "grass", "gravel", "camera")


@dataclass(frozen=True)
class TextureBank:
    """Texture tiles with mip levels on one device.

    texels: int32 [n], RGBX bytes of all levels, level 0 first; each level holds all tiles row-major.
    brightness: float32 [tiles], mean of a tile over pixels and channels, in (0, 1].
    ranges: kind -> (first tile, number of tiles).
    """

    texels: Tensor
    brightness: Tensor
    ranges: dict[str, tuple[int, int]]
    size: int
    tiles: int
    levels: int

    @property
    def device(self) -> torch.device:
        return self.texels.device

    def catalogue(self) -> TextureBank:
        """Return the bank on the CPU without its pixels: all that drawing materials needs."""
        return dataclasses.replace(
            self, texels=self.texels.new_empty(0).cpu(), brightness=self.brightness.cpu()
        )

    def image(self, tile: int, level: int = 0) -> Tensor:
        """Return one tile's pixels, float32 [3, s, s] in [0, 1], s = size / 2**level."""
        first = sum(self.tiles * (self.size >> k) ** 2 for k in range(level))
        side = self.size >> level
        texels = self.texels[first + tile * side * side :][: side * side].reshape(side, side)
        return torch.stack([(texels >> shift) & 255 for shift in (0, 8, 16)]).float() / 255


def make_texture_bank(
    tiles: int = 1024,
    size: int = 128,
    seed: int = 0,
    device: torch.device | str = "cpu",
    photos: Mapping[str, Tensor] | None = None,
) -> TextureBank:
    """Generate a bank of `tiles` square tiles of `size` pixels (a power of two), deterministic by seed and device.

    photos: further kinds of tile, uint8 [n, 3, size, size] each, that are added as they are; see photos.py.

    Photographs come from scikit-image when it is installed (extra [train]); otherwise their share is drawn as dead
    leaves, which have nearly the statistics of photographs.
    """
    if size < 8 or size & (size - 1):
        raise ValueError(f"texture size must be a power of two of at least 8, got {size}")
    if tiles < len(SHARES):
        raise ValueError(f"a texture bank needs at least {len(SHARES)} tiles, got {tiles}")
    dice = torch.Generator(device=device).manual_seed(seed)
    draw = {
        "paint": _paint,
        "noise": _noise_tiles,
        "leaves": _leaves,
        "wood": _wood,
        "tiles": _tiles,
        "fabric": _fabric,
        "print": _print,
        "photo": _photos,
    }
    counts = {kind: max(1, int(tiles * share)) for kind, share in SHARES.items()}
    counts["leaves"] += tiles - sum(counts.values())
    ranges: dict[str, tuple[int, int]] = {}
    parts: list[Tensor] = []
    first = 0
    for kind, count in counts.items():
        ranges[kind] = (first, count)
        first += count
        parts.append(draw[kind](count, size, dice).clamp(0, 1))
    for kind, pictures in (photos or {}).items():
        ranges[kind] = (first, len(pictures))
        first += len(pictures)
        parts.append(pictures.to(device).float() / 255)
    tiles = first
    level = torch.cat(parts)
    brightness = level.mean((1, 2, 3)).clamp_min(0.02)
    packed = []
    levels = size.bit_length()
    for _ in range(levels):
        byte = (level * 255).round().to(torch.int32)
        packed.append((byte[:, 0] | (byte[:, 1] << 8) | (byte[:, 2] << 16)).reshape(-1))
        level = torch.nn.functional.avg_pool2d(level, 2) if level.shape[-1] > 1 else level
    return TextureBank(torch.cat(packed), brightness, ranges, size, tiles, levels)


def _uniform(dice: torch.Generator, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
    return low + (high - low) * torch.rand(*shape, generator=dice, device=dice.device)


def natural_colours(u: Tensor) -> Tensor:
    """Map uniform numbers [..., 4] to RGB [..., 3] as indoor surfaces have it: grey, beige, brown, some vivid."""
    hue = torch.where(u[..., 0] < 0.6, 0.02 + 0.12 * (u[..., 0] / 0.6), (u[..., 0] - 0.6) / 0.4)
    vivid = (u[..., 3] > 0.72).float()
    saturation = u[..., 1] ** 2 * 0.45 * (1 - vivid) + vivid * (0.35 + 0.6 * u[..., 1])
    value = 0.05 + 0.93 * u[..., 2] ** 1.15
    k = torch.stack([(hue * 6 + n) % 6 for n in (5.0, 3.0, 1.0)], -1)
    fall = torch.minimum(k, 4 - k).clamp(0, 1)
    return value[..., None] * (1 - saturation[..., None] * fall)


def _field(
    count: int, size: int, slope: Tensor, dice: torch.Generator, stretch: Tensor | None = None
) -> Tensor:
    """Draw periodic Gaussian noise [count, size, size] with amplitude spectrum f**-slope, zero mean, unit variance."""
    f = torch.fft.fftfreq(size, device=dice.device) * size
    fy, fx = torch.meshgrid(f, f, indexing="ij")
    if stretch is not None:
        fx = fx * stretch.reshape(-1, 1, 1)
    radius = (fx**2 + fy**2).sqrt().clamp_min(0.7)
    gain = radius ** (-slope.reshape(-1, 1, 1))
    white = torch.randn(count, size, size, generator=dice, device=dice.device)
    field = torch.fft.ifft2(torch.fft.fft2(white) * gain).real
    field = field - field.mean((1, 2), keepdim=True)
    return field / field.std((1, 2), keepdim=True).clamp_min(1e-6)


def _colour_noise(count: int, size: int, slope: Tensor, dice: torch.Generator) -> Tensor:
    """Draw noise [count, 3, size, size] whose luminance varies more than its colour."""
    light = _field(count, size, slope, dice)
    chroma = torch.stack([_field(count, size, slope + 0.2, dice) for _ in range(3)], 1)
    return light[:, None] + 0.25 * chroma


def _paint(count: int, size: int, dice: torch.Generator) -> Tensor:
    field = _colour_noise(count, size, _uniform(dice, count, low=0.8, high=1.8), dice)
    return 0.7 + _uniform(dice, count, 1, 1, 1, low=0.005, high=0.04) * field


def _ramp(field: Tensor, dice: torch.Generator, stops: int = 3) -> Tensor:
    """Colour a scalar field [n, h, w] through a random palette -> [n, 3, h, w]."""
    count = field.shape[0]
    palette = natural_colours(_uniform(dice, count, stops, 4))
    grade = (torch.special.ndtr(field).clamp(0, 1) * (stops - 1)).clamp(max=stops - 1 - 1e-4)
    index = grade.floor()
    mix = (grade - index)[..., None]
    index = index.long().reshape(count, -1, 1).expand(-1, -1, 3)
    low = palette.gather(1, index).reshape(*field.shape, 3)
    high = palette.gather(1, index + 1).reshape(*field.shape, 3)
    return (low + (high - low) * mix).permute(0, 3, 1, 2)


def _noise_tiles(count: int, size: int, dice: torch.Generator) -> Tensor:
    slope = _uniform(dice, count, low=0.5, high=2.0)
    image = _ramp(_field(count, size, slope, dice), dice, 4)
    grain = _colour_noise(count, size, _uniform(dice, count, low=0.6, high=1.4), dice)
    return image + _uniform(dice, count, 1, 1, 1, low=0.0, high=0.08) * grain


def _grid(size: int, dice: torch.Generator) -> tuple[Tensor, Tensor]:
    axis = (torch.arange(size, device=dice.device) + 0.5) / size
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return x, y


def _leaves(count: int, size: int, dice: torch.Generator, shapes: int = 220) -> Tensor:
    """Draw dead leaves: discs, rectangles and ellipses with power-law sizes that hide each other."""
    x, y = _grid(size, dice)
    image = natural_colours(_uniform(dice, count, 4))[:, :, None, None].expand(-1, -1, size, size).clone()
    number = _uniform(dice, count, low=0.1, high=1.0) ** 1.5 * shapes  # calm and busy collages
    base = natural_colours(_uniform(dice, count, 4))
    unity = _uniform(dice, count, 1) ** 1.5 * 0.85  # how far a tile's colours agree
    for k in range(shapes):
        u = _uniform(dice, count, 12)
        # Large shapes first: otherwise they would hide everything that was painted before them.
        fade = k / shapes
        radius = (0.02 + 0.45 * (1 - fade) ** 2.0) * (0.5 + u[:, 0])
        ratio = 0.35 + 0.65 * u[:, 1]
        angle = math.pi * u[:, 2]
        # Half of the rectangles are upright, as things made by people are.
        box = u[:, 3] < 0.5
        angle = torch.where(box & (u[:, 4] < 0.6), torch.zeros_like(angle), angle)
        dx = (x - u[:, 5, None, None] + 0.5) % 1 - 0.5
        dy = (y - u[:, 6, None, None] + 0.5) % 1 - 0.5
        c, s = angle.cos()[:, None, None], angle.sin()[:, None, None]
        px = (c * dx + s * dy) / radius[:, None, None]
        py = (c * dy - s * dx) / (radius * ratio)[:, None, None]
        distance = torch.where(box[:, None, None], torch.maximum(px.abs(), py.abs()), (px**2 + py**2).sqrt())
        soft = (radius * ratio * size)[:, None, None]
        cover = ((1 - distance) * soft + 0.5).clamp(0, 1) * (k < number).float()[:, None, None]
        colour = natural_colours(u[:, 7:11]) * (1 - unity) + base * unity * (0.6 + 0.8 * u[:, 11:])
        # A linear gradient over the shape imitates shading.
        shade = 1 + 0.35 * (u[:, 4] - 0.5)[:, None, None] * (px + py)
        image += cover[:, None] * (colour[:, :, None, None] * shade[:, None] - image)
    grain = _colour_noise(count, size, _uniform(dice, count, low=0.5, high=1.5), dice)
    return image + _uniform(dice, count, 1, 1, 1, low=0.0, high=0.06) * grain


def _wood(count: int, size: int, dice: torch.Generator) -> Tensor:
    _, y = _grid(size, dice)
    planks = torch.randint(1, 7, (count, 1, 1), generator=dice, device=dice.device)
    row = (y * planks).floor()
    inside = (y * planks) % 1
    jitter = torch.rand(count, 8, generator=dice, device=dice.device)
    tone = jitter.gather(1, row.long().reshape(count, -1)).reshape(count, size, size)
    grain = _field(
        count, size, _uniform(dice, count, low=0.9, high=1.5), dice, _uniform(dice, count, low=4, high=14)
    )
    # Each plank shows another piece of the tree.
    shift = (tone * size).long()
    column = (torch.arange(size, device=dice.device) + shift) % size
    grain = grain.gather(2, column)
    hue = _uniform(dice, count)
    pale = torch.stack([0.35 + 0.55 * hue, 0.2 + 0.5 * hue, 0.1 + 0.35 * hue], -1)
    grey = pale.mean(-1, keepdim=True)
    pale = pale + (grey - pale) * _uniform(dice, count, 1) ** 2
    light = 1 + 0.25 * _uniform(dice, count, 1, 1) * (tone - 0.5) * 2
    light = light + _uniform(dice, count, 1, 1, low=0.03, high=0.16) * grain
    gap = ((inside < 0.5 * planks / size * 2) & (planks > 1)).float() * _uniform(
        dice, count, 1, 1, low=0.2, high=0.7
    )
    return pale[:, :, None, None] * (light * (1 - gap))[:, None]


def _tiles(count: int, size: int, dice: torch.Generator) -> Tensor:
    x, y = _grid(size, dice)
    columns = torch.randint(1, 9, (count, 1, 1), generator=dice, device=dice.device)
    rows = columns * torch.randint(1, 3, (count, 1, 1), generator=dice, device=dice.device)
    bond = (torch.rand(count, 1, 1, generator=dice, device=dice.device) < 0.4).float() * 0.5
    j = (y * rows).floor()
    u = x * columns + bond * (j % 2)
    i = u.floor() % columns
    edge_x = ((u % 1) - 0.5).abs() * 2
    edge_y = ((y * rows % 1) - 0.5).abs() * 2
    width = _uniform(dice, count, 1, 1, low=0.01, high=0.1)
    joint = ((edge_x > 1 - width) | (edge_y > 1 - width * rows / columns)).float()
    tones = torch.rand(count, 256, generator=dice, device=dice.device)
    tone = tones.gather(1, (i * 31 + j * 17).long().reshape(count, -1) % 256).reshape(count, size, size)
    two = (torch.rand(count, 1, 1, generator=dice, device=dice.device) < 0.35).float()
    spread = _uniform(dice, count, 1, 1) ** 2
    tone = two * ((i + j) % 2) + (1 - two) * (0.5 + (tone - 0.5) * spread)
    a, b = (natural_colours(_uniform(dice, count, 4))[:, :, None, None] for _ in range(2))
    b = a + (b - a) * _uniform(dice, count, 1, 1, 1)
    grout = natural_colours(_uniform(dice, count, 4))[:, :, None, None]
    image = a + (b - a) * tone[:, None]
    image = image * (1 + 0.06 * _field(count, size, _uniform(dice, count, low=0.6, high=1.6), dice)[:, None])
    return image + (grout - image) * joint[:, None] * _uniform(dice, count, 1, 1, 1, low=0.3, high=1.0)


def _fabric(count: int, size: int, dice: torch.Generator) -> Tensor:
    x, y = _grid(size, dice)
    waves = torch.randint(8, 40, (count, 1, 1), generator=dice, device=dice.device).float()
    weave = (2 * math.pi * waves * x).sin() * (2 * math.pi * waves * y).sin()
    stripe_count = torch.randint(1, 12, (count, 1, 1), generator=dice, device=dice.device).float()
    stripe = ((x * stripe_count % 1) < _uniform(dice, count, 1, 1, low=0.2, high=0.8)).float()
    plaid = stripe + ((y * stripe_count % 1) < 0.5).float() * (_uniform(dice, count, 1, 1) < 0.5).float()
    a, b = (natural_colours(_uniform(dice, count, 4))[:, :, None, None] for _ in range(2))
    striped = (_uniform(dice, count, 1, 1, 1) < 0.5).float()
    image = a + (b - a) * plaid[:, None] * 0.5 * striped
    rough = _field(count, size, _uniform(dice, count, low=0.0, high=0.7), dice)
    light = 1 + _uniform(dice, count, 1, 1, low=0.0, high=0.15) * weave
    light = light + _uniform(dice, count, 1, 1, low=0.02, high=0.15) * rough
    return image * light[:, None]


def _print(count: int, size: int, dice: torch.Generator) -> Tensor:
    """Draw posters, pages, signs and screens: pictures, headings and lines of words on a plain ground."""
    x, y = _grid(size, dice)
    ground = natural_colours(_uniform(dice, count, 4))
    white = (_uniform(dice, count, 1) < 0.5).float()
    ground = white * 0.93 + (1 - white) * ground
    image = ground[:, :, None, None].expand(-1, -1, size, size).clone()
    picture = _leaves(count, size, dice, 60)
    top, height = (
        _uniform(dice, count, 1, 1, low=0.0, high=0.6),
        _uniform(dice, count, 1, 1, low=0.1, high=0.8),
    )
    left, width = (
        _uniform(dice, count, 1, 1, low=0.0, high=0.4),
        _uniform(dice, count, 1, 1, low=0.3, high=1.0),
    )
    inside = (y > top) & (y < top + height) & (x > left) & (x < left + width)
    inside = inside & (_uniform(dice, count, 1, 1) < 0.75)
    image = torch.where(inside[:, None], picture, image)
    for _ in range(4):  # blocks of words with different letter sizes
        lines = torch.exp(_uniform(dice, count, 1, 1, low=math.log(4), high=math.log(28)))
        row = (y * lines).floor()
        words = torch.rand(count, 64, 24, generator=dice, device=dice.device)
        cell = ((x * lines * 0.8).floor().clamp(0, 23) + row.clamp(0, 63) * 24).long().reshape(count, -1)
        word = words.reshape(count, -1).gather(1, cell).reshape(count, size, size)
        ink = ((y * lines % 1) > 0.35) & ((y * lines % 1) < 0.85) & (word < 0.72)
        if size >= 64:
            letters = ((x * lines * 5) % 1) < 0.7
            ink = ink & (letters | (_uniform(dice, count, 1, 1) < 0.4))
        top, left = _uniform(dice, count, 1, 1), _uniform(dice, count, 1, 1, low=-0.2, high=0.7)
        height, width = (
            _uniform(dice, count, 1, 1, low=0.05, high=0.4),
            _uniform(dice, count, 1, 1, low=0.2, high=0.9),
        )
        ink = ink & (y > top) & (y < top + height) & (x > left) & (x < left + width)
        colour = natural_colours(_uniform(dice, count, 4)) * (
            0.15 + 0.85 * (_uniform(dice, count, 1) < 0.3).float()
        )
        image = torch.where(ink[:, None], colour[:, :, None, None], image)
    return image


def _photos(count: int, size: int, dice: torch.Generator) -> Tensor:
    """Cut random crops out of the bundled photographs, mirrored, recoloured and brightened at random."""
    try:
        from skimage import data
    except ImportError:
        return _leaves(count, size, dice)
    sources = []
    for name in PHOTOGRAPHS:
        picture = torch.as_tensor(getattr(data, name)().copy(), device=dice.device).float() / 255
        sources.append(picture.permute(2, 0, 1) if picture.ndim == 3 else picture[None].expand(3, -1, -1))
    u = torch.rand(count, 12, generator=dice, device=dice.device).cpu()
    crops = []
    for row in u.tolist():
        source = sources[min(int(row[0] ** 1.5 * len(sources)), len(sources) - 1)]
        side = int(min(source.shape[1:]) * (0.25 + 0.75 * row[1]))
        top, left = int(row[2] * (source.shape[1] - side)), int(row[3] * (source.shape[2] - side))
        crop = source[None, :, top : top + side, left : left + side]
        crop = torch.nn.functional.interpolate(crop, (size, size), mode="bilinear", antialias=True)[0]
        crop = crop.flip(2) if row[4] < 0.5 else crop
        crop = crop.transpose(1, 2) if row[5] < 0.2 else crop
        gamma = 0.6 + 1.2 * row[6]
        crop = crop.clamp(0, 1) ** gamma
        grey = crop.mean(0, keepdim=True)
        crop = grey + (crop - grey) * (0.3 + 1.2 * row[7])
        tint = torch.tensor([row[8], row[9], row[10]], device=crop.device)[:, None, None]
        crop = crop * (1 + 0.5 * (tint - 0.5))
        if row[11] < 0.25:  # other hues altogether
            crop = crop[torch.randperm(3, generator=torch.Generator().manual_seed(int(row[11] * 1e6)))]
        crops.append(crop)
    return torch.stack(crops)
