"""Recipes of training pictures, as numbers, with their captions.

A recipe names the pictures it shows and their places, the background and the filter, and has several captions. Recipes
are grouped by kind (`KINDS`), so that training can weigh single things first and compositions later.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

KINDS = ("single", "recolour", "background", "scene", "pair", "count", "filter", "degraded", "size")
#: Shares of the kinds in the pool of rendered pictures.
POOL_SHARES = (0.40, 0.13, 0.09, 0.12, 0.15, 0.045, 0.03, 0.015, 0.02)
CAPTIONS = 6
MAX_OBJECTS = 3
# Columns of an object's parameters.
X, Y, SCALE, FLIP, ROTATION, MODE, P0, P1, P2, P3, P4, EFFECT = range(12)
COLUMNS = 12
MODE_PLAIN, MODE_RECOLOUR, MODE_SILHOUETTE = range(3)
EFFECT_SHADOW, EFFECT_STICKER = 1, 2
BACKGROUND_SOLID, BACKGROUND_GRADIENT, BACKGROUND_SCENE = range(3)
(FILTER_NONE, FILTER_GRAY, FILTER_SEPIA, FILTER_PIXEL, FILTER_LINE, FILTER_BLUR, FILTER_NOISE, FILTER_WARP,
 FILTER_LOWRES) = range(9)  # fmt: skip
#: Unordered pairs of nouns that training never puts into one picture: the evaluation's two-subject prompts.
HELD_OUT_PAIRS: frozenset[frozenset[str]] = frozenset(
    frozenset(pair.split("+"))
    for pair in str.split(
        "cat+rocket dog+guitar apple+car penguin+umbrella lion+banana robot+sunflower frog+crown ghost+pizza "
        "owl+book turtle+star rabbit+strawberry monkey+key bee+house horse+cactus pig+balloon snowman+dog "
        "unicorn+castle dragon+mushroom fish+bicycle butterfly+camera elephant+tree cat+cactus bear+hamburger "
        "fox+lemon rocket+tree car+sunflower house+heart banana+star crown+strawberry guitar+mushroom "
        "penguin+carrot robot+balloon ghost+cactus owl+crown frog+umbrella bus+tree apple+book lion+guitar "
        "panda+rocket whale+star octopus+car bee+camera horse+rose cow+bicycle duck+hamburger snail+key "
        "dinosaur+cake cherries+castle watermelon+robot snowman+rocket"
    )
)
assert len(HELD_OUT_PAIRS) == 50


@dataclass
class Recipes:
    """A batch of n recipes.

    images ``[n, 3]`` int32 (-1: no object), objects ``[n, 3, 12]``, backgrounds ``[n, 8]`` and filters ``[n, 3]``
    float32, kinds ``[n]`` uint8, captions ``n`` lists of `CAPTIONS` lower-case strings.
    """

    images: np.ndarray
    objects: np.ndarray
    backgrounds: np.ndarray
    filters: np.ndarray
    kinds: np.ndarray
    captions: list[list[str]]
