"""Drawings of everyday things with their names, placed at random on plain backgrounds.

The drawings are emoji from released packages: Google's for training, Twitter's for testing.
"""

import json
import random
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps

from model_core.checkpoints.packages import NpmPackage
from model_core.data.sources.packages import package_folder

_SIDE = 224
# Things with a single everyday name.
_NAMES = {
    "rat", "mouse", "cow", "tiger", "rabbit", "cat", "dragon", "crocodile", "snail", "snake", "horse", "goat",
    "sheep", "monkey", "rooster", "dog", "pig", "elephant", "octopus", "ant", "fish", "turtle", "bird", "penguin",
    "koala", "dolphin", "frog", "wolf", "bear", "panda", "spider", "crab", "lion", "scorpion", "turkey",
    "unicorn", "eagle", "duck", "bat", "shark", "owl", "fox", "butterfly", "deer", "gorilla", "lizard", "giraffe",
    "zebra", "hedgehog", "kangaroo", "peacock", "parrot", "lobster", "swan", "flamingo", "whale", "cactus",
    "tulip", "rose", "sunflower", "mushroom", "taco", "tomato", "watermelon", "lemon", "banana", "pineapple",
    "pear", "peach", "strawberry", "hamburger", "doughnut", "cookie", "croissant", "avocado", "cucumber",
    "potato", "carrot", "egg", "pretzel", "sandwich", "coconut", "pie", "cupcake", "waffle", "onion", "teapot",
    "lollipop", "volcano", "rainbow", "rocket", "helicopter", "train", "bus", "ambulance", "taxi", "tractor",
    "ship", "bicycle", "motorcycle", "church", "tent", "fountain", "airplane", "mountain", "umbrella", "snowman",
    "anchor", "cloud", "watch", "hourglass", "skateboard", "canoe", "sailboat", "compass", "balloon", "trophy",
    "kite", "baseball", "volleyball", "microphone", "guitar", "trumpet", "violin", "saxophone", "crown", "ring",
    "key", "bell", "hammer", "wrench", "ladder", "chair", "bed", "door", "toilet", "bathtub", "candle", "camera",
    "radio", "television", "battery", "magnet", "microscope", "telescope", "bomb", "pencil", "envelope", "bucket",
    "toothbrush", "broom", "axe", "shield", "dress", "necktie", "coat", "scarf", "harp", "flute", "syringe",
    "clipboard", "newspaper", "red apple", "green apple", "hot dog", "ice cream", "palm tree", "police car",
    "fire engine", "alarm clock", "teddy bear", "top hat", "christmas tree", "soccer ball",
}  # fmt: skip
_RENAMED = {
    "christmas tree": "Christmas tree", "deciduous tree": "tree", "slice of pizza": "pizza", "automobile": "car",
    "european castle": "castle", "house building": "house", "white medium star": "star", "black telephone": "telephone",
    "electric light bulb": "light bulb", "open book": "book", "honeybee": "bee",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Drawing:
    """A drawing and the name of what it shows, without an article."""

    file: Path
    name: str


@dataclass(frozen=True, slots=True)
class NamedPicture:
    """A picture file and the name of what it shows, without an article."""

    image: Path
    name: str


def load_drawings(package: NpmPackage, cache: Path) -> list[Drawing]:
    """The drawings of a package that have an everyday name; some share a name, as "cat" and "cat face" do."""
    listing, folder = (package_folder(package, cache) / member for member in package.members)
    drawings = []
    for entry in json.loads(listing.read_text()):
        name = entry["name"].lower().removesuffix(" face")
        file = folder / entry["image"]
        if (name in _NAMES or name in _RENAMED) and file.exists():
            drawings.append(Drawing(file, _RENAMED.get(name, name)))
    return drawings


def place(drawing: Drawing, seed: int, folder: Path) -> NamedPicture:
    """Writes a 224 x 224 picture of the drawing with size, position and background determined by the seed."""
    image = folder / f"{drawing.file.stem}-{seed}.png"
    if not image.exists():
        rng = random.Random(f"{drawing.file.stem} {seed}")
        side = rng.randrange(_SIDE * 2 // 5, _SIDE)
        ground = (255, 255, 255) if rng.random() < 0.5 else tuple(rng.randrange(150, 256) for _ in range(3))
        canvas = Image.new("RGB", (_SIDE, _SIDE), ground)
        drawn = Image.open(drawing.file).convert("RGBA").resize((side, side), Image.Resampling.BICUBIC)
        drawn = ImageOps.mirror(drawn) if rng.random() < 0.5 else drawn
        canvas.paste(drawn, (rng.randrange(_SIDE - side + 1), rng.randrange(_SIDE - side + 1)), drawn)
        folder.mkdir(parents=True, exist_ok=True)
        canvas.save(image)
    return NamedPicture(image, drawing.name)


def with_article(name: str) -> str:
    """`owl` -> `an owl`"""
    return f"{'an' if name[0].lower() in 'aeio' or name.startswith('um') else 'a'} {name}"
