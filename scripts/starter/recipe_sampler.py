"""Draws random recipes from a pack of pictures, and writes their captions."""

from __future__ import annotations

import random

import numpy as np

from . import captions as words
from .pack import PIXELS, Pack
from .recipes import (
    BACKGROUND_GRADIENT,
    BACKGROUND_SCENE,
    BACKGROUND_SOLID,
    CAPTIONS,
    COLUMNS,
    EFFECT,
    EFFECT_SHADOW,
    EFFECT_STICKER,
    FILTER_BLUR,
    FILTER_GRAY,
    FILTER_LINE,
    FILTER_LOWRES,
    FILTER_NOISE,
    FILTER_NONE,
    FILTER_PIXEL,
    FILTER_SEPIA,
    FILTER_WARP,
    FLIP,
    HELD_OUT_PAIRS,
    KINDS,
    MAX_OBJECTS,
    MODE,
    MODE_RECOLOUR,
    MODE_SILHOUETTE,
    P0,
    P2,
    P4,
    POOL_SHARES,
    ROTATION,
    SCALE,
    Recipes,
    X,
    Y,
)

#: Concepts that make poor subjects of a scene.
_NOT_SUBJECTS = frozenset(
    str.split("sky-weather place-geographic geometric time zodiac other-symbol warning family emotion")
)


class RecipeSampler:
    """Draws random recipes from a pack. The same seed gives the same recipes."""

    def __init__(self, pack: Pack, seed: int, shares: tuple[float, ...] = POOL_SHARES) -> None:
        self.pack = pack
        self.rng = random.Random(seed)
        self.images_of = pack.images_of_concepts()
        self.ids = sorted(self.images_of)
        self.shares = shares
        weights = [pack.concepts[c]["w"] for c in self.ids]
        subject_weights = [
            0.0 if pack.concepts[c]["sub"] in _NOT_SUBJECTS or w < 0.3 else w
            for c, w in zip(self.ids, weights, strict=True)
        ]
        self.cumulative = np.cumsum(weights).tolist()
        self.subject_cumulative = np.cumsum(subject_weights).tolist()
        if self.subject_cumulative[-1] == 0:  # a toy pack in the tests
            self.subject_cumulative = self.cumulative
        self.scenes_of: dict[str, list[int]] = {}
        for index, scene in enumerate(pack.scenes):
            self.scenes_of.setdefault(scene["t"], []).append(index)
        self.scene_names = sorted(self.scenes_of)
        self.object_colours = list(words.OBJECT_COLOURS)
        self.object_colour_weights = [v[4] for v in words.OBJECT_COLOURS.values()]

    # -- drawing of parts ---------------------------------------------------------------------------------------

    def concept(self, subject: bool = False) -> int:
        """A random concept by weight; ``subject``: one that can stand in a scene."""
        table = self.subject_cumulative if subject else self.cumulative
        return self.rng.choices(self.ids, cum_weights=table)[0]

    def image(self, concept: int, style: str | None = None, recolourable: bool = False) -> int:
        """A picture of the concept, if possible of that style / of one dominant hue."""
        found = self.images_of[concept]
        for preferred in (
            [i for i in found if style and self.pack.images[i]["style"] == style],
            [i for i in found if recolourable and self.pack.images[i]["recol"]],
        ):
            if preferred:
                found = preferred
        weights = [words.STYLE_WEIGHT[self.pack.images[i]["style"]] for i in found]
        return self.rng.choices(found, weights)[0]

    def place(
        self,
        image: int,
        x: float,
        y: float,
        scale: float,
        flip: bool = False,
        rotation: float = 0.0,
        colour: str | None = None,
        silhouette: tuple[int, int, int] | None = None,
        effect: int = 0,
    ) -> tuple[int, list[float]]:
        """An object: picture ``image`` centred at pixel (x, y), scaled (1: longest side 240 px)."""
        row = [0.0] * COLUMNS
        row[X], row[Y], row[SCALE], row[FLIP], row[ROTATION], row[EFFECT] = x, y, scale, float(flip), rotation, effect
        if colour:
            hue, saturation, value, offset, _ = words.OBJECT_COLOURS[colour]
            row[MODE] = MODE_RECOLOUR
            row[P0 : P4 + 1] = [self.pack.images[image]["hue"] or 0.0, hue, saturation, value, offset]
        elif silhouette is not None:
            row[MODE] = MODE_SILHOUETTE
            row[P0 : P2 + 1] = [v / 255 for v in silhouette]
        return image, row

    def centred(self, scale: float) -> tuple[float, float]:
        """A position near the middle that keeps an object of this scale inside the picture."""
        room = max(2.0, (PIXELS / 2 - 120 * scale) * 0.5)
        return 128 + self.rng.uniform(-room, room), 128 + self.rng.uniform(-room, room)

    def flipped(self, concept: int) -> bool:
        return bool(self.pack.concepts[concept]["flip"]) and self.rng.random() < 0.2

    def plain_background(self) -> tuple[list[float], str]:
        """A solid or (rarely) gradient background and its phrase."""
        rng = self.rng

        def shade(name: str) -> list[float]:
            spread = 6 if name == "black" else 14
            return [min(255.0, max(0.0, v + rng.uniform(-spread, spread))) for v in words.BACKGROUND_COLOURS[name]]

        name = rng.choice(list(words.BACKGROUND_COLOURS))
        first = shade(name)
        if rng.random() < 0.12:
            other = rng.choice(list(words.BACKGROUND_COLOURS))
            phrases = (f"on a {name} and {other} gradient background", f"{name} and {other} gradient background",
                       f"on a gradient background from {name} to {other}")  # fmt: skip
            return [BACKGROUND_GRADIENT, *first, *shade(other), 0.0], rng.choice(phrases)
        phrase = rng.choice((f"on {words.with_article(name)} background",) * 3 + (
            f"{name} background", f"with {words.with_article(name)} background", f"on {name}",
            f"against {words.with_article(name)} background", f"in front of {words.with_article(name)} background",
        ))  # fmt: skip
        return [BACKGROUND_SOLID, *first, *first, 0.0], phrase

    def scene_background(self, kind: str) -> list[float]:
        flip = float(self.rng.random() < 0.5)
        return [BACKGROUND_SCENE, float(self.rng.choice(self.scenes_of[kind])), flip, 0.0, 0.0, 0.0, 0.0, 0.0]

    def noun(self, concept: int, image: int | None = None, colour: str | None = None, short: bool = False) -> str:
        """A name of the concept; with the asked colour in front, or sometimes with the picture's own."""
        entry = self.pack.concepts[concept]
        rng = self.rng
        own_colour = bool(words.COLOUR_WORDS & set(entry["names"][0].split()))
        if short and not colour and own_colour and rng.random() < 0.85:
            name = entry["names"][0]  # "blue heart" should not be called "heart" when no colour is asked
        elif short and rng.random() < 0.7:
            name = entry["noun"]
        else:
            name = entry["names"][0] if rng.random() < 0.5 else rng.choice(entry["names"])
        if colour:
            return f"{colour} {words.without_colours(name, entry['noun'])}"
        if image is not None:
            own = self.pack.images[image]["col"]
            if own and not words.COLOUR_WORDS & set(name.split()) and rng.random() < 0.2:
                return f"{own} {name}"
        return name

    def maybe_colour(self, image: int, chance: float, white_ok: bool = True) -> str | None:
        if not self.pack.images[image]["recol"] or self.rng.random() >= chance:
            return None
        colour = self.rng.choices(self.object_colours, self.object_colour_weights)[0]
        return colour if white_ok or colour != "white" else None

    # -- kinds --------------------------------------------------------------------------------------------------

    def single(self, recipe: dict) -> None:
        rng, concept = self.rng, self.concept()
        image = self.image(concept)
        style, entry = self.pack.images[image]["style"], self.pack.concepts[concept]
        scale = rng.uniform(0.88, 1.0) if rng.random() < 0.85 else rng.uniform(0.62, 0.88)
        rotation = rng.uniform(-0.05, 0.05) if rng.random() < 0.15 else 0.0
        recipe["objects"] = [self.place(image, *self.centred(scale), scale, self.flipped(concept), rotation)]
        for _ in range(CAPTIONS):
            if entry["kws"] and rng.random() < 0.04:
                subject = ", ".join(rng.sample(entry["kws"], min(len(entry["kws"]), rng.randint(2, 4))))
                recipe["captions"].append(words.decorate(subject, rng, style))
                continue
            context = None
            if rng.random() < 0.07:
                context = rng.choice(("on a white background", "white background", "isolated on white", "on white"))
            recipe["captions"].append(words.decorate(self.noun(concept, image), rng, style, context, entry["kws"]))

    def recolour(self, recipe: dict) -> None:
        rng = self.rng
        for _ in range(40):
            concept = self.concept()
            image = self.image(concept, recolourable=True)
            if self.pack.images[image]["recol"]:
                break
        colour = self.maybe_colour(image, 1.0)
        context = None
        if (colour == "white" and rng.random() < 0.9) or rng.random() < 0.12:
            recipe["background"], context = self.plain_background()
        scale = rng.uniform(0.84, 1.0)
        recipe["objects"] = [self.place(image, *self.centred(scale), scale, self.flipped(concept), colour=colour)]
        style = self.pack.images[image]["style"]
        for _ in range(CAPTIONS):
            recipe["captions"].append(words.decorate(self.noun(concept, None, colour, True), rng, style, context))

    def background(self, recipe: dict) -> None:
        rng, concept = self.rng, self.concept()
        image = self.image(concept)
        scale = rng.uniform(0.7, 0.96)
        recipe["background"], context = self.plain_background()
        sticker = rng.random() < 0.06
        colour = self.maybe_colour(image, 0.2)
        recipe["objects"] = [
            self.place(image, *self.centred(scale), scale, self.flipped(concept), colour=colour,
                       effect=EFFECT_STICKER if sticker else 0)
        ]  # fmt: skip
        style = self.pack.images[image]["style"]
        for _ in range(CAPTIONS):
            subject = self.noun(concept, None if colour else image, colour, bool(colour))
            caption = words.decorate(subject, rng, style, context)
            recipe["captions"].append(caption + ", sticker" if sticker else caption)

    def scene(self, recipe: dict) -> None:
        rng = self.rng
        kind = rng.choice(self.scene_names)
        recipe["background"] = self.scene_background(kind)
        phrases = self.pack.scene_types[kind]
        if rng.random() < 0.05:
            recipe["captions"] = [words.decorate(phrases["alone"], rng) for _ in range(CAPTIONS)]
            return
        concept = self.concept(subject=True)
        image = self.image(concept)
        colour = self.maybe_colour(image, 0.2)
        scale = rng.uniform(0.5, 0.7)
        floating = kind in ("space", "underwater", "night") and rng.random() < 0.6
        half_height = 120 * scale / max(1.0, self.pack.images[image]["ar"])
        y = rng.uniform(108, 148) if floating else rng.uniform(0.82, 0.89) * PIXELS - half_height
        recipe["objects"] = [
            self.place(image, 128 + rng.uniform(-30, 30), y, scale, self.flipped(concept), colour=colour,
                       effect=0 if floating else EFFECT_SHADOW)
        ]  # fmt: skip
        style = self.pack.images[image]["style"]
        for _ in range(CAPTIONS):
            subject = self.noun(concept, None if colour else image, colour, True)
            recipe["captions"].append(words.decorate(subject, rng, style, rng.choice(phrases["ctx"])))

    def pair(self, recipe: dict) -> None:
        rng = self.rng
        for _ in range(20):
            first, second = self.concept(subject=True), self.concept(subject=True)
            nouns = {words.without_colours(n, n) for c in (first, second) for n in self.pack.concepts[c]["names"]}
            if first != second and not any(pair <= nouns for pair in HELD_OUT_PAIRS):
                break
        image_1 = self.image(first)
        style = self.pack.images[image_1]["style"]
        image_2 = self.image(second, style if rng.random() < 0.92 else None)
        vertical = rng.random() < 0.12
        context, grounded = None, False
        draw = rng.random()
        if draw < 0.15:
            recipe["background"], context = self.plain_background()
        elif draw < 0.33 and not vertical:
            kind = rng.choice(self.scene_names)
            recipe["background"], grounded = self.scene_background(kind), True
            context = rng.choice(self.pack.scene_types[kind]["ctx"])
        colour_1 = self.maybe_colour(image_1, 0.2, white_ok=bool(context))
        colour_2 = self.maybe_colour(image_2, 0.2, white_ok=bool(context))
        scale_1, scale_2 = rng.uniform(0.44, 0.53), rng.uniform(0.44, 0.53)
        if vertical:
            at_1 = (128 + rng.uniform(-12, 12), 66 + rng.uniform(-4, 4))
            at_2 = (128 + rng.uniform(-12, 12), 190 + rng.uniform(-4, 4))
        else:
            level = rng.uniform(0.82, 0.88) * PIXELS if grounded else 128 + rng.uniform(-10, 10)
            heights = [
                level - 120 * s / max(1.0, self.pack.images[i]["ar"]) if grounded else level + rng.uniform(-6, 6)
                for i, s in ((image_1, scale_1), (image_2, scale_2))
            ]
            at_1, at_2 = (65 + rng.uniform(-4, 4), heights[0]), (191 + rng.uniform(-4, 4), heights[1])
        effect = EFFECT_SHADOW if grounded else 0
        recipe["objects"] = [
            self.place(image_1, *at_1, scale_1, self.flipped(first), colour=colour_1, effect=effect),
            self.place(image_2, *at_2, scale_2, self.flipped(second), colour=colour_2, effect=effect),
        ]
        named_style = rng.choice(words.STYLE_WORDS[style])
        for _ in range(CAPTIONS):
            a = self.noun(first, None if colour_1 else image_1, colour_1, True)
            b = self.noun(second, None if colour_2 else image_2, colour_2, True)
            if rng.random() < 0.75:
                a, b = words.with_article(a), words.with_article(b)
            if vertical:
                text = rng.choice((f"{a} above {b}", f"{a} on top of {b}", f"{b} below {a}", f"{a} over {b}",
                                   f"{b} under {a}"))  # fmt: skip
            else:
                draw = rng.random()
                if draw < 0.56:
                    text = f"{a} and {b}" if rng.random() < 0.6 else f"{b} and {a}"
                elif draw < 0.86:
                    text = f"{a}{rng.choice((' next to ', ' with ', ', ', ' beside ', ' and also '))}{b}"
                elif draw < 0.93:
                    text = f"{a} on the left and {b} on the right"
                else:
                    text = f"{b} to the right of {a}" if rng.random() < 0.5 else f"{a} to the left of {b}"
            if rng.random() < 0.15:
                text = f"{rng.choice(words.OPENINGS[:9])} {text}"
            if rng.random() < words.STYLE_SHARE[style] * 0.8:
                text = f"{named_style} {text}" if rng.random() < 0.4 else f"{text}, {named_style}"
            if context:
                text += f" {context}" if rng.random() < 0.75 else f", {context}"
            recipe["captions"].append(text)

    def count(self, recipe: dict) -> None:
        rng = self.rng
        concept = self.concept(subject=True)
        image = self.image(concept)
        number = rng.choice((2, 2, 3))
        context = None
        if rng.random() < 0.2:
            recipe["background"], context = self.plain_background()
        colour = self.maybe_colour(image, 0.25, white_ok=bool(context))
        if number == 2:
            scale, spots = rng.uniform(0.44, 0.5), [(66, 128), (190, 128)]
        elif rng.random() < 0.5:
            scale, spots = rng.uniform(0.31, 0.34), [(45, 128), (128, 128), (211, 128)]
        else:
            scale, spots = rng.uniform(0.42, 0.47), [(128, 70), (68, 186), (188, 186)]
        flip = self.flipped(concept)
        recipe["objects"] = [
            self.place(image, x + rng.uniform(-4, 4), y + rng.uniform(-5, 5), scale, flip, colour=colour)
            for x, y in spots
        ]
        style = self.pack.images[image]["style"]
        for _ in range(CAPTIONS):
            text = f"{('two', 'three')[number - 2]} {words.plural(self.noun(concept, None, colour, True))}"
            if rng.random() < 0.3:
                text = f"{rng.choice(('a picture of', 'an image of', 'icon of', 'draw'))} {text}"
            if rng.random() < words.STYLE_SHARE[style]:
                text += f", {rng.choice(words.STYLE_WORDS[style])}"
            recipe["captions"].append(f"{text} {context}" if context else text)

    def filter(self, recipe: dict) -> None:
        rng, concept = self.rng, self.concept()
        image = self.image(concept)
        scale = rng.uniform(0.84, 1.0)
        draw, silhouette = rng.random(), None
        if draw < 0.25:
            recipe["filter"] = [FILTER_GRAY, 0.0, 0.0]
            phrases = ["black and white", "grayscale", "monochrome", "in black and white", "black and white photo"]
        elif draw < 0.37:
            recipe["filter"] = [FILTER_SEPIA, 0.0, 0.0]
            phrases = ["sepia", "in sepia tones", "old sepia photo"]
        elif draw < 0.62:
            recipe["filter"] = [FILTER_PIXEL, float(rng.choice((32, 32, 40))), 0.0]
            phrases = ["pixel art", "pixel art style", "8-bit pixel art", "in pixel art style"]
        elif draw < 0.80:
            recipe["filter"] = [FILTER_LINE, 0.0, 0.0]
            phrases = ["line art", "line drawing", "sketch", "pencil sketch", "outline drawing", "coloring page"]
        else:
            name = rng.choice(["black"] * 3 + list(words.SILHOUETTES)[1:])
            silhouette = words.SILHOUETTES[name]
            phrases = [f"{name} silhouette", f"{name} shadow shape"]
            phrases += ["silhouette", "silhouette style"] if name == "black" else [f"silhouette in {name}"]
        recipe["objects"] = [
            self.place(image, *self.centred(scale), scale, self.flipped(concept), silhouette=silhouette)
        ]
        for _ in range(CAPTIONS):
            name = self.noun(concept, None, None, True)
            if silhouette is not None:
                name = words.without_colours(name, name)
            phrase, draw = rng.choice(phrases), rng.random()
            if phrase.startswith("in ") or draw < 0.2:
                text = f"{words.with_article(name)}, {phrase}"
            else:
                text = (f"{name}, {phrase}" if draw < 0.5 else f"{phrase} of {words.with_article(name)}" if draw < 0.8
                        else f"{phrase} {name}")  # fmt: skip
            recipe["captions"].append(text)

    def degraded(self, recipe: dict) -> None:
        """Spoilt pictures with the words people put into negative prompts."""
        rng, concept = self.rng, self.concept()
        image = self.image(concept)
        scale = rng.uniform(0.75, 1.0)
        recipe["objects"] = [self.place(image, *self.centred(scale), scale, self.flipped(concept))]
        which = rng.choice((FILTER_BLUR, FILTER_BLUR, FILTER_NOISE, FILTER_WARP, FILTER_WARP, FILTER_LOWRES))
        recipe["filter"] = [which, rng.uniform(0.5, 1.0), 0.0]
        if rng.random() < 0.3:
            recipe["background"], _ = self.plain_background()
        first = {
            FILTER_BLUR: ["blurry", "out of focus", "unsharp"],
            FILTER_NOISE: ["noisy", "grainy"],
            FILTER_WARP: ["deformed", "distorted", "ugly", "bad anatomy"],
            FILTER_LOWRES: ["low resolution", "lowres", "pixelated", "jpeg artifacts"],
        }[which]
        for _ in range(CAPTIONS):
            flaws = [rng.choice(first), *rng.sample(words.BAD_QUALITY, rng.randint(0, 3))]
            rng.shuffle(flaws)
            text, draw = ", ".join(flaws), rng.random()
            if draw >= 0.35:
                text = f"{text} {self.noun(concept)}" if draw < 0.55 else f"{self.noun(concept)}, {text}"
            recipe["captions"].append(text)

    def size(self, recipe: dict) -> None:
        rng, concept = self.rng, self.concept(subject=True)
        image = self.image(concept)
        small = rng.random() < 0.8
        scale = rng.uniform(0.28, 0.42) if small else 1.05
        context = None
        if rng.random() < 0.3:
            recipe["background"], context = self.plain_background()
        recipe["objects"] = [
            self.place(image, 128 + rng.uniform(-12, 12), 128 + rng.uniform(-12, 12), scale, self.flipped(concept))
        ]
        sizes = ("tiny", "small", "little", "mini") if small else ("big", "large", "huge")
        style = self.pack.images[image]["style"]
        for _ in range(CAPTIONS):
            subject = f"{rng.choice(sizes)} {self.noun(concept, None, None, True)}"
            recipe["captions"].append(words.decorate(subject, rng, style, context))

    def batch(self, n: int) -> Recipes:
        """n random recipes."""
        images = np.full((n, MAX_OBJECTS), -1, np.int32)
        objects = np.zeros((n, MAX_OBJECTS, COLUMNS), np.float32)
        backgrounds = np.zeros((n, 8), np.float32)
        filters = np.zeros((n, 3), np.float32)
        kinds = np.array(self.rng.choices(range(len(KINDS)), self.shares, k=n), np.uint8)
        captions = []
        for i in range(n):
            recipe: dict = {
                "objects": [],
                "background": [BACKGROUND_SOLID, 255.0, 255.0, 255.0, 255.0, 255.0, 255.0, 0.0],
                "filter": [FILTER_NONE, 0.0, 0.0],
                "captions": [],
            }
            getattr(self, KINDS[kinds[i]])(recipe)
            for k, (image, row) in enumerate(recipe["objects"]):
                images[i, k], objects[i, k] = image, row
            backgrounds[i], filters[i] = recipe["background"], recipe["filter"]
            captions.append([caption.lower() for caption in recipe["captions"]])
        return Recipes(images, objects, backgrounds, filters, kinds, captions)
