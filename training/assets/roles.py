"""Where a piece of furniture stands in a room, by its name, category and size in a catalogue."""

from __future__ import annotations

import re

ROLES = (
    "wall",
    "seat",
    "desk",
    "free",
    "small",
    "clutter",
    "hung",
    "ceiling",
    "rug",
    "door",
    "window",
    "person",
    "plant",
)
"""Against a wall; a seat; a table; anywhere on the floor; on the floor, small; on tables; on a wall; below the ceiling;
flat on the floor; in a wall, from the floor; in a wall, above it; people and animals; plants on the floor."""

# Brands, money, and what does not stand in rooms.
LEFT_OUT = re.compile(
    r"apple|iphone|playstation|bill \d|ford|peugeot|renault|seat leon|volkswagen|vw |chevrolet|smart car|yamaha|sedan"
    r"|truck|bus$|van$|suv|fork lift|shipping|horse|rail|parking|arrow|crossing|street|lamppost|park light|elevator"
    r"|escalator|staircase|garage|swimming|pool$|jacuzzi|trampoline|goal|tent|hut|barnum|fountain|rowboat|sidewalk"
    r"|column|hydrant|snowman|chimney|hammock|diving|mower|tree|maple|beech|cypress|poplar|pine|acacia|sycamore"
    r"|peach|swing|seesaw|child hut|children game|sandpit|mannequin|under snow|dress$|short|trousers|jacket|skirt|glove"
    r"|socket$|mailbox|letters box|external unit|porch|antenna|rj45|lying|sitting|fence",
    re.IGNORECASE,
)
CATEGORIES_LEFT_OUT = ("Staircases",)
CEILING = re.compile(
    r"hanging light|pendant|chandelier|ceiling|fluorescent|track lights|smoke detector|^lamp$", re.I
)
RUG = re.compile(r"rug|carpet|bathmat|doormat|tatami|futon$|sleeping bag", re.I)
SEAT = re.compile(r"chair|stool|armchair|seat|bench$|puff|ottoman|bank$", re.I)
DESK = re.compile(r"table(?!t)|desk(?! lamp)|island(?! ext)|workbench|trestle", re.I)
PLANT = re.compile(
    r"plant|yucca|ficus|spathi|bamboo|flower|lily|tulip|orchid|bonsai|cactus|succulent|bush|hedge|palm", re.I
)
WALL = re.compile(
    r"sofa|couch|bed$|bed |crib|wardrobe|cupboard|bookcase|shel|cabinet|drawer|dresser|piano|television|tv stand|fridge"
    r"|refrigerator|oven|stove|wash|vanity|bath|toilet|bidet|urinal|radiator|fireplace|box$|lavatory|chest|safe|locker"
    r"|dryer|freezer|heater|rack|unit|screen|living room|island extension|sink|futon|board|aquarium|cooler|furnace",
    re.I,
)


def role_of(
    name: str, category: str, size: tuple[float, float, float], elevation: float, opening: bool
) -> str | None:
    """Return a role of ROLES, or None for what is left out.

    size: width, depth, height in metres; elevation: of its lower side above the floor, metres; opening: a door or
    window.
    """
    width, depth, height = size
    if LEFT_OUT.search(name) or category in CATEGORIES_LEFT_OUT or max(size) > 3.6:
        return None
    if category == "Vehicles" and max(size) > 1.7:
        return None
    if opening or category == "Doors and windows":
        if "shutter" in name.lower() or depth > 0.4:
            return None
        return "door" if elevation < 0.06 and height > 1.8 else "window"
    if category == "Characters":
        return "person"
    if CEILING.search(name) and (elevation > 1.0 or "smoke" in name.lower()):
        return "ceiling"
    if RUG.search(name) and height < 0.2:
        return "rug"
    if elevation > 0.15:
        return "hung"
    longest = max(size)
    if PLANT.search(name):
        return "clutter" if height < 0.45 and longest < 0.6 else "plant"
    if (
        longest < 0.62
        and not SEAT.search(name)
        and not re.search(r"dustbin|basket|trash|bin$|stove|washbasin|safe", name, re.I)
    ):
        return "clutter"
    if re.search(r"lamp|light", name, re.I):
        return "clutter" if height < 0.8 else "small"
    if SEAT.search(name) and longest < 1.6:
        return "seat"
    if DESK.search(name) and height < 1.3 and "lamp" not in name.lower():
        return "desk"
    if WALL.search(name):
        return "wall"
    if longest < 0.75:
        return "small"
    return "free" if min(width, depth) > 0.25 else "small"


GLOWS = re.compile(r"bulb|light|lamp|neon|glow|flame|lumi|abat|shade", re.I)
"""Names of materials that shine where their piece is a lamp."""
