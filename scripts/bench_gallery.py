"""A gallery of any number of pictures without files, with prompts of realistic length and repetition."""

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from diffusion_local.compose import Services
from diffusion_local.db import rows
from diffusion_local.db.copying import rebuild_text_index
from diffusion_local.domain import Image, new_id, utc_text
from diffusion_local.options.table import Params

BATCH = 100  # pictures per batch
BOARDS, ON_BOARD = 50, 1000
SUBJECTS = [
    "castle",
    "lighthouse",
    "fox",
    "dragon",
    "robot",
    "apple",
    "samurai",
    "whale",
    "forest",
    "astronaut",
    "bicycle",
    "harbor",
    "village",
    "owl",
]
KINDS = [
    "ancient",
    "tiny",
    "crystal",
    "rusty",
    "floating",
    "forgotten",
    "golden",
    "mechanical",
    "sleeping",
    "burning",
    "wooden",
    "neon",
]
PLACES = [
    "at sunrise",
    "in heavy rain",
    "under the northern lights",
    "by the sea",
    "on Mars",
    "in a snowstorm",
    "in moonlight",
]
STYLES = ["oil painting", "watercolor", "35mm photo", "isometric render", "ink drawing", "matte painting", "pixel art"]
TAILS = [
    "volumetric light",
    "shallow depth of field",
    "trending",
    "sharp focus",
    "muted colors",
    "film grain",
    "wide angle",
]
CHINESE = "雪山下的古老城堡，水彩画，柔和的光"
RARE = "zeppelin"  # in ten prompts, regardless of their number


def fill_gallery(services: Services, count: int) -> list[str]:
    """Add one picture per minute, and boards with pictures from all times; returns picture ids, oldest first."""
    services.studio.submit("the tables are there", count=1)
    ids: list[str] = []
    with services.database.write() as db:
        triggers = db.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'images'")
        dropped = triggers.fetchall()
        for name, _ in dropped:
            db.execute(f"DROP TRIGGER {name}")
        columns = [*rows.image_row(next(pictures(1))), "number", "batch_id"]
        marks = ", ".join(f":{each}" for each in columns)
        filled = (
            rows.image_row(each) | {"number": number, "batch_id": f"batch-{number // BATCH}"}
            for number, each in enumerate(remembered(pictures(count), ids), start=1)
        )
        db.execute_many(f"INSERT INTO images ({', '.join(columns)}) VALUES ({marks})", filled)
        rebuild_text_index(db)
        for _, sql in dropped:
            db.execute(sql)
    dice = random.Random(2)
    for number in range(BOARDS):
        services.studio.boards.create(f"board {number}", dice.sample(ids, min(ON_BOARD, count // 2)))
    services.database.upkeep()
    return ids


def pictures(count: int) -> Iterator[Image]:
    dice = random.Random(1)
    start = datetime.now(UTC) - timedelta(minutes=count)
    rare = {1 + each * count // 10 for each in range(10)}
    for number in range(count):
        few = number in rare
        width, height = dice.choice(((512, 512), (768, 512), (512, 768)))
        model = "rare" if few else dice.choice(("starter", "sd15", "sdxl", "flux"))
        params = Params(prompt(dice, few), "", model, width, height, 20, 7.0, "Euler a", dice.randrange(2**32))
        at = utc_text(start + timedelta(minutes=number))
        image_id = new_id()
        trashed = at if number % 50 == 7 else None
        yield Image(
            image_id,
            new_id(),
            f"{image_id}.png",
            params,
            width,
            height,
            300_000,
            at,
            2.0,
            dice.random() < 0.02,
            trashed,
        )


def prompt(dice: random.Random, few: bool) -> str:
    if dice.random() < 0.01 and not few:
        return CHINESE
    pick = dice.choice
    words = f"a {pick(KINDS)} {RARE if few else pick(SUBJECTS)} {pick(PLACES)}, {pick(STYLES)}"
    tail = ", highly detailed, 8k" if few or dice.random() < 2 / 3 else ""
    return f"{words}, {', '.join(dice.sample(TAILS, 3))}{tail}, no. {dice.randrange(10**6)}"


def remembered(images: Iterator[Image], ids: list[str]) -> Iterator[Image]:
    for each in images:
        ids.append(each.id)
        yield each
