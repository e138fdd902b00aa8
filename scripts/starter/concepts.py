"""Which concepts are trained, what they are called and how often each is drawn (part of step 2).

Names come from CLDR and the usual shortcodes, plus a few everyday words (`ALIASES`); keywords from the sources' tags.
Weights favour what people ask for first: animals, food, vehicles, plants, weather, faces.
"""

from __future__ import annotations

import re
from typing import Any

from .captions import COLOUR_WORDS

_PERSON_GROUPS = frozenset(
    str.split(
        "person-role person-activity person-sport person-gesture person-fantasy family person-resting person "
        "person-symbol"
    )
)
#: Weight by group; groups that begin with animal or food, and drinks, weigh 1.7; hands .6, faces .9, others 1.
GROUP_WEIGHTS = {
    "person-role": 0.35,
    "person-activity": 0.3,
    "person-sport": 0.4,
    "family": 0.15,
    "person-gesture": 0.3,
    "person": 0.4,
    "person-fantasy": 0.8,
    "person-symbol": 0.12,
    "person-resting": 0.35,
    "body-parts": 0.6,
    "time": 0.3,
    "geometric": 0.5,
    "other-symbol": 0.2,
    "warning": 0.15,
    "religion": 0.3,
    "zodiac": 0.12,
    "game": 0.7,
    "book-paper": 0.6,
    "office": 0.5,
    "mail": 0.35,
    "money": 0.6,
    "emotion": 0.5,
    "sky-weather": 1.1,
    "heart": 1.7,
    "cat-face": 1.7,
    "face-smiling": 1.3,
    "monkey-face": 1.2,
    "place-building": 1.4,
    "transport-ground": 1.5,
    "transport-air": 1.5,
    "transport-water": 1.4,
    "place-geographic": 1.4,
    "plant-flower": 1.6,
    "plant-other": 1.4,
    "musical-instrument": 1.3,
    "event": 1.2,
    "light-video": 0.8,
    "tool": 0.8,
    "household": 0.8,
    "flag": 0.3,
    "science": 0.8,
    "writing": 0.6,
    "lock": 0.6,
    "phone": 0.8,
    "arts-crafts": 0.9,
    "hotel": 0.3,
}
#: Everyday things, drawn 1.8 times as often.
EVERYDAY = frozenset(
    """cat;dog;red apple;green apple;rocket;pizza;red heart;blue heart;green heart;yellow heart;
    purple heart;orange heart;house;house with garden;snowman;automobile;evergreen tree;deciduous tree;
    palm tree;star;sun;crescent moon;rose;sunflower;tulip;birthday cake;robot;ghost;unicorn;dragon;
    fish;bird;bicycle;sailboat;airplane;guitar;cat face;dog face;grinning cat;smiling cat with heart-
    eyes;grinning cat with smiling eyes;grinning face;smiling face with sunglasses;banana;grapes;
    strawberry;lemon;watermelon;orange;hamburger;hot beverage;ice cream;doughnut;cookie;penguin;panda;
    bear;fox;lion;tiger face;owl;butterfly;bee;turtle;octopus;whale;elephant;frog;rabbit face;
    pig face;cow face;horse;monkey;chicken;castle;school;mountain;volcano;rainbow;cloud;umbrella;
    snowflake;fire;light bulb;book;camera;television;laptop;mobile phone;gift;balloon;crown;
    soccer ball;basketball;trophy;key;clock;alarm clock;glasses;top hat;t-shirt;bus;taxi;fire engine;
    police car;tractor;helicopter;ship;anchor;Christmas tree;jack-o-lantern;skull;alien;mushroom;
    cactus;carrot;tangerine;peach;cherries;bread;cheese wedge;egg;cooking;french fries;taco;sushi;
    lollipop;chocolate bar;teacup without handle;beer mug;wine glass;spouting whale;dolphin;crab;shark;
    snail;spider;dinosaur;sauropod;T-Rex;crocodile;snake;sport utility vehicle;racing car;locomotive;
    tent;hammer;scissors;pencil;door;chair;bed;couch and lamp;teddy bear;violin;drum;microphone;
    headphone;gem stone;ring;moon;full moon;sun with face;four leaf clover;cherry blossom;hibiscus;
    maple leaf""".replace("\n    ", "").split(";")
)
#: Everyday words, before the official names; the first one is the short noun.
ALIASES: dict[str, list[str]] = {
    "automobile": ["car", "red car", "automobile"],
    "sport utility vehicle": ["blue suv", "suv"],
    "pizza": ["pizza", "pizza slice", "slice of pizza"],
    "rocket": ["rocket", "space rocket", "rocket ship"],
    "house with garden": ["house with garden", "house with a garden", "garden house"],
    "house": ["house", "home"],
    "snowman": ["snowman", "snow man"],
    "snowman without snow": ["snowman"],
    "cat face": ["cat face", "cat", "kitty face"],
    "cat": ["cat", "whole cat"],
    "grinning cat with smiling eyes": ["smiling cat face", "smiling cat", "happy cat face"],
    "grinning cat": ["grinning cat", "happy cat face", "smiling cat face", "grinning cat face"],
    "dog face": ["dog face", "dog", "puppy face"],
    "red heart": ["red heart", "heart"],
    "red apple": ["red apple", "apple"],
    "green apple": ["green apple", "apple"],
    "locomotive": ["locomotive", "steam train", "train"],
    "hot beverage": ["cup of coffee", "hot coffee", "hot drink", "coffee cup"],
    "deciduous tree": ["tree", "deciduous tree", "leafy tree"],
    "evergreen tree": ["pine tree", "evergreen tree", "fir tree", "tree"],
    "french fries": ["french fries", "fries"],
    "birthday cake": ["birthday cake", "cake"],
    "shortcake": ["strawberry shortcake", "slice of cake", "cake"],
    "hamburger": ["hamburger", "burger"],
    "airplane": ["airplane", "plane", "aeroplane"],
    "bicycle": ["bicycle", "bike"],
    "mobile phone": ["mobile phone", "phone", "smartphone", "cell phone"],
    "laptop": ["laptop", "laptop computer", "notebook computer"],
    "T-Rex": ["t-rex", "tyrannosaurus", "dinosaur"],
    "sauropod": ["sauropod", "dinosaur", "long neck dinosaur"],
    "wrapped gift": ["gift", "present", "wrapped gift", "gift box"],
    "soccer ball": ["soccer ball", "football"],
    "jack-o-lantern": ["pumpkin", "jack o lantern", "halloween pumpkin"],
    "teacup without handle": ["cup of tea", "tea cup"],
    "light bulb": ["light bulb", "lamp", "bulb"],
    "doughnut": ["donut", "doughnut"],
    "fire engine": ["fire truck", "fire engine"],
    "oncoming automobile": ["car from the front", "oncoming car"],
    "honeybee": ["bee", "honey bee"],
    "lady beetle": ["ladybug", "ladybird"],
    "cooking": ["fried egg in a pan", "fried egg", "frying pan"],
    "tangerine": ["orange fruit", "tangerine", "mandarin"],
    "headphone": ["headphones", "headphone"],
    "beer mug": ["beer mug", "glass of beer", "beer"],
    "clinking beer mugs": ["two beer mugs", "cheers with beer"],
    "wine glass": ["glass of wine", "wine glass"],
    "t-shirt": ["t-shirt", "tshirt", "shirt"],
    "glasses": ["glasses", "eyeglasses"],
    "bread": ["loaf of bread", "bread"],
    "crescent moon": ["crescent moon", "moon"],
    "full moon": ["full moon", "moon"],
    "smiling face with sunglasses": [
        "smiling face with sunglasses",
        "cool face with sunglasses",
        "face with sunglasses",
    ],
    "grinning face": ["grinning face", "smiling face", "happy face", "smiley"],
    "smiling face with heart-eyes": ["face with heart eyes", "smiling face with heart eyes", "in love face"],
    "rabbit face": ["rabbit face", "bunny face", "bunny"],
    "rabbit": ["rabbit", "bunny"],
    "panda": ["panda", "panda bear"],
    "dragon": ["dragon", "green dragon"],
    "snow-capped mountain": ["mountain with snow", "snowy mountain", "mountain"],
    "glowing star": ["glowing star", "shining star"],
    "star": ["star", "yellow star"],
    "rose": ["rose", "red rose"],
    "taxi": ["taxi", "yellow cab"],
    "sailboat": ["sailboat", "sailing boat", "boat"],
    "robot": ["robot", "robot face"],
    "teddy bear": ["teddy bear", "toy bear"],
    "person: blond hair": ["blond person"],
    "television": ["tv", "television"],
    "open book": ["open book", "book"],
    "unicorn": ["unicorn", "unicorn face"],
    "horse face": ["horse face", "horse head"],
    "cow face": ["cow face", "cow"],
    "pig face": ["pig face", "pig"],
    "tiger face": ["tiger face", "tiger"],
    "mouse face": ["mouse face", "mouse"],
    "monkey face": ["monkey face", "monkey"],
    "frog": ["frog", "frog face"],
}
#: Tags of the sources that are jargon or slang.
_BAD_KEYWORDS = frozenset(
    str.split(
        "staffmode brand neutral where ily bsd adore mac side nasa dealwithit aesthetic lol omg wtf smh fml "
        "imo ugh bae fleek thx rofl jajaja"
    )
)
#: Pictures with writing or a direction are never mirrored.
_WITH_TEXT = re.compile(
    r"left|right|clock|arrow|letter|abc|sign|button|calendar|dollar|yen|euro|pound|mark|keycap|number|book|newspaper|"
    r"page|chart|music|note|banknote|atm|flag|card|ticket|receipt|question|exclam|zodiac|hundred|cinema"
)


_HUE_WORDS = ((37, "orange"), (66, "yellow"), (165, "green"), (190, "teal"), (250, "blue"), (290, "purple"))


def clean(text: str) -> str:
    """Lower case without quotes and signs."""
    text = text.lower().replace("’", "'").replace("_", " ").replace(":", " ")
    text = re.sub(r"[“”\"!]", "", text)
    return re.sub(r"\s+", " ", text).strip(" ,.")


def weight(label: str, group: str) -> float:
    """How often the concept is drawn, relative to 1."""
    low = label.lower()
    if "o’clock" in low or "thirty" in low:
        return 0.06
    value = GROUP_WEIGHTS.get(group)
    if value is None:
        if group.startswith(("animal", "food")) or group in ("drink", "dishware"):
            value = 1.7
        else:
            value = 0.6 if group.startswith("hand") else 0.9 if group.startswith("face") else 1.0
    if "moon" in low and low not in ("crescent moon", "full moon", "full moon face"):
        value = 0.4
    return value * (1.8 if label in EVERYDAY else 1.0)


def dominant_colour(figures: dict[str, Any]) -> str | None:
    """Colour word of a picture from its figures (`pack_art.colour_figures`); None where no single word fits."""
    hue, value = figures["hue"], figures["V"]
    if hue is not None and figures["sf"] > 0.35 and figures["conc"] > 0.55:
        if value < 0.25:
            return "black"
        if 10 <= hue < 48 and value < 0.68:
            return "brown"
        if hue < 13 or hue >= 343:
            return "red" if figures["S"] > 0.5 else "pink"
        for limit, word in (
            (37, "orange"),
            (66, "yellow"),
            (165, "green"),
            (190, "teal"),
            (250, "blue"),
            (290, "purple"),
        ):
            if hue < limit:
                return word
        return "pink"
    if figures["sf"] < 0.15:
        return "white" if figures["lum"] > 0.78 else "black" if figures["lum"] < 0.25 else "grey"
    return None


def describe(raw: list[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """Concepts to train by their index in ``raw`` (label, names, keywords, group)."""
    described = {}
    for index, entry in enumerate(raw):
        label, low, group = entry["label"], entry["label"].lower(), entry["sub"]
        gendered = re.match(r"(man|woman|men|women|family|kiss|couple)\b", low)
        if group in _PERSON_GROUPS and gendered and low not in ("man", "woman", "family", "kiss"):
            continue
        if "facing right" in low or ("japanese" in low and "button" in low):
            continue
        official = clean(label).replace("person blond", "blond")
        names: list[str] = []
        for name in (clean(n) for n in [*ALIASES.get(label, []), official, *entry["names"][1:]]):
            if len(name) > 1 and name not in names and re.fullmatch(r"[a-z '\-]+", name):
                names.append(name)
        if not names:
            continue
        keywords: list[str] = []
        for word in (clean(k) for k in entry["kws"]):
            plain = re.fullmatch(r"[a-z][a-z '\-]{2,24}", word) and len(word.split()) <= 3
            if plain and word not in keywords and word not in names and word not in _BAD_KEYWORDS:
                keywords.append(word)
        noun = names[0]
        described[index] = {
            "label": label, "emoji": entry["emoji"], "hex": entry["hex"], "sub": group, "w": weight(label, group),
            "names": names, "kws": keywords[:14],
            "noun": " ".join(w for w in noun.split() if w not in COLOUR_WORDS) or noun,
            "flip": not (_WITH_TEXT.search(low) or group in ("zodiac", "other-symbol", "warning", "time", "flag")),
        }  # fmt: skip
    return described
