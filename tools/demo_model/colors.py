"""Pictures of one colour, and questions about them."""

from __future__ import annotations

import numpy as np

#: Pixels of a picture's side.
SIDE = 32

COLORS = {
    "red": (215, 30, 35), "green": (45, 160, 60), "blue": (40, 70, 210), "yellow": (240, 220, 40),
    "orange": (245, 135, 25), "purple": (130, 50, 170), "pink": (250, 150, 190),
    "brown": (115, 70, 35), "black": (20, 20, 20), "white": (240, 240, 240),
    "grey": (130, 130, 130),
}  # fmt: skip

#: Stands for the picture.
MARK = "\0"
QUESTIONS = [
    f"{MARK}What color is this?", f"{MARK}What colour is this?", f"What color is this?{MARK}",
    f"What color is it?{MARK}", f"{MARK}What color is the picture?", f"What do you see?{MARK}",
    f"{MARK}What is this?", f"What colour is it?\n{MARK}", f"{MARK}\nName the color.",
]  # fmt: skip


def draw(rng: np.random.Generator, color: str) -> np.ndarray:
    """A picture of a colour: no two are alike in hue, light, shade and noise."""
    hue = np.array(COLORS[color]) + rng.uniform(-14, 14, 3) + rng.uniform(-8, 8)
    across, down = np.meshgrid(np.linspace(0, 1, SIDE), np.linspace(0, 1, SIDE))
    turn = rng.uniform(0, 2 * np.pi)
    shade = 1 - rng.uniform(0, 0.12) * (across * np.cos(turn) + down * np.sin(turn))
    noise = rng.normal(0, rng.uniform(0, 10), (SIDE, SIDE, 3))
    return np.clip(hue * shade[..., None] + noise, 0, 255).round()
