"""Words of the captions: colours, styles, quality words, and small rules of English grammar.

Everything is lower case, as the tokenizer is. The templates that only the evaluation uses are in ``evaluate.py``
(`HELD_OUT_TEMPLATES`); none of their openings may be added here (a test checks it).
"""

from __future__ import annotations

import random

#: Background colours by name, sRGB 0..255.
BACKGROUND_COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (226, 48, 44), "orange": (255, 150, 40), "yellow": (255, 221, 70), "green": (70, 180, 80),
    "light green": (170, 225, 150), "dark green": (20, 90, 50), "blue": (50, 110, 225), "light blue": (150, 210, 250),
    "dark blue": (20, 35, 110), "sky blue": (120, 195, 250), "purple": (140, 70, 200), "lavender": (215, 200, 250),
    "pink": (255, 150, 190), "light pink": (255, 210, 225), "brown": (130, 85, 50), "beige": (240, 225, 200),
    "black": (8, 8, 10), "gray": (128, 128, 132), "grey": (130, 130, 134), "light gray": (212, 212, 216),
    "dark gray": (60, 60, 64), "teal": (30, 150, 150), "turquoise": (64, 210, 200), "gold": (235, 185, 40),
    "cream": (255, 246, 220),
}  # fmt: skip
#: Object colours by name: target hue (degrees), saturation factor, value factor, value offset, share.
OBJECT_COLOURS: dict[str, tuple[float, float, float, float, float]] = {
    "red": (0, 1.05, 1.0, 0.0, 1.0), "orange": (27, 1.05, 1.0, 0.02, 1.0), "yellow": (50, 1.0, 1.0, 0.08, 1.0),
    "green": (122, 0.95, 0.86, 0.0, 1.0), "teal": (178, 0.95, 0.85, 0.0, 0.5), "blue": (216, 1.05, 1.0, 0.0, 1.2),
    "purple": (275, 0.9, 0.92, 0.0, 1.0), "pink": (335, 0.55, 1.0, 0.1, 1.0), "brown": (24, 0.85, 0.58, 0.0, 0.7),
    "black": (220, 0.15, 0.26, 0.0, 0.7), "grey": (220, 0.06, 0.78, 0.0, 0.35), "gray": (220, 0.06, 0.78, 0.0, 0.35),
    "white": (220, 0.04, 0.35, 0.66, 0.4),
}  # fmt: skip
COLOUR_WORDS = frozenset(
    str.split("red orange yellow green blue purple pink brown black white grey gray teal light dark")
)
#: Colours of silhouettes, sRGB 0..255.
SILHOUETTES: dict[str, tuple[int, int, int]] = {
    "black": (0, 0, 0), "red": (220, 40, 40), "blue": (40, 90, 220), "green": (40, 160, 70),
    "purple": (130, 60, 190), "orange": (245, 140, 30), "pink": (245, 120, 170),
}  # fmt: skip
#: Words for the four art styles. The two Fluent styles look alike and share theirs.
STYLE_WORDS: dict[str, list[str]] = {
    "3d": ["3d", "3d render", "3d style", "3d icon", "glossy 3d", "in 3d style"],
    "color": ["3d", "3d style", "glossy", "soft 3d", "3d render"],
    "flat": ["flat", "flat design", "flat vector", "flat style", "minimal flat"],
    "noto": ["cartoon", "cartoon style", "in cartoon style", "illustration", "comic style"],
}
#: How often a caption names the style. A caption without a style word means the Fluent look: naming the two other
#: styles nearly always keeps one prompt from standing for four different drawings.
STYLE_SHARE = {"3d": 0.25, "color": 0.25, "flat": 0.88, "noto": 0.88}
#: How often a picture of each style is drawn.
STYLE_WEIGHT = {"3d": 0.40, "color": 0.28, "noto": 0.20, "flat": 0.12}
OPENINGS = [
    "a picture of", "an image of", "an icon of", "an emoji of", "a drawing of", "an illustration of", "picture of",
    "photo of", "a photo of", "icon of", "clipart of", "a cute", "a nice", "a beautiful", "a single", "one", "cute",
    "please draw", "draw", "i want", "can you make", "paint", "make", "this is", "here is", "a sticker of", "my",
]  # fmt: skip
QUALITY = [
    "high quality", "best quality", "masterpiece", "detailed", "highly detailed", "sharp", "beautiful", "clean",
    "professional", "8k", "4k", "crisp", "vivid colors", "best quality, masterpiece", "high resolution",
    "sharp, detailed",
]  # fmt: skip
BAD_QUALITY = [
    "blurry", "low quality", "worst quality", "bad quality", "ugly", "low resolution", "jpeg artifacts", "noisy",
    "out of focus", "deformed", "distorted", "bad", "pixelated", "blurry, low quality", "low quality, ugly",
    "worst quality, low quality", "grainy", "unsharp", "lowres", "bad anatomy",
]  # fmt: skip
_ARTICLES = ("a ", "an ", "the ", "two ", "three ", "some ", "my ")


def with_article(noun: str) -> str:
    """``apple`` -> ``an apple``; nouns that have an article or a number already are left alone."""
    if noun.startswith(_ARTICLES):
        return noun
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def without_colours(noun: str, fallback: str) -> str:
    """The noun phrase without colour words (``red apple`` -> ``apple``)."""
    return " ".join(word for word in noun.split() if word not in COLOUR_WORDS) or fallback


def plural(noun: str) -> str:
    """Plural of a noun phrase: ``slice of pizza`` -> ``slices of pizza``, ``butterfly`` -> ``butterflies``."""
    words = noun.split()
    for link in ("of", "with", "in"):
        if link in words[1:]:
            at = words.index(link)
            return " ".join([*words[: at - 1], plural(words[at - 1]), *words[at:]])
    last = words[-1]
    irregular = {"leaf": "leaves", "mouse": "mice", "foot": "feet", "tooth": "teeth", "sheep": "sheep"}
    if last in irregular:
        last = irregular[last]
    elif last.endswith(("fish", "sushi")) or (last.endswith("s") and not last.endswith(("ss", "us"))):
        pass
    elif last.endswith("man"):
        last = last[:-3] + "men"
    elif last.endswith(("ss", "x", "ch", "sh", "us")):
        last += "es"
    elif last.endswith("y") and last[-2:-1] not in "aeiou":
        last = last[:-1] + "ies"
    else:
        last += "s"
    return " ".join([*words[:-1], last])


def decorate(
    subject: str,
    rng: random.Random,
    style: str | None = None,
    context: str | None = None,
    keywords: list[str] | None = None,
    keyword_share: float = 0.12,
) -> str:
    """One caption about ``subject``: article or opening, style word, context, a few keywords, quality words."""
    text = subject
    draw = rng.random()
    if draw < 0.30:
        pass
    elif draw < 0.62:
        text = with_article(text)
    elif draw < 0.68:
        text += " emoji"
    elif draw < 0.74:
        text = text if text.startswith(_ARTICLES) else "the " + text
    else:
        opening = rng.choice(OPENINGS)
        wants_article = opening.endswith((" of", "draw", "want", "make", "paint", " is")) and rng.random() < 0.75
        text = f"{opening} {with_article(text) if wants_article else text}"
    if style and rng.random() < STYLE_SHARE[style]:
        word = rng.choice(STYLE_WORDS[style])
        draw = rng.random()
        if draw < 0.45:
            text += ", " + word
        elif draw < 0.75 and not word.startswith("in "):
            head, _, tail = text.partition(" ")
            text = f"{with_article(word)} {tail}" if head in ("a", "an", "the") and tail else f"{word} {text}"
        elif word.startswith("in "):
            text += " " + word
        else:
            text += f" in {word}" + ("" if "style" in word else " style")
    if context:
        draw = rng.random()
        text = f"{text} {context}" if draw < 0.75 else f"{text}, {context}" if draw < 0.9 else f"{context}, {text}"
    if keywords and rng.random() < keyword_share:
        text += ", " + ", ".join(rng.sample(keywords, min(len(keywords), rng.randint(1, 3))))
    if rng.random() < 0.10:
        text = f"{text}, {rng.choice(QUALITY)}" if rng.random() < 0.8 else f"{rng.choice(QUALITY)}, {text}"
    return text
