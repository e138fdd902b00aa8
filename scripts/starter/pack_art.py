"""Step 2: turn the fetched art into the pack: one 256x256 RGBA picture per concept and style, with names and keywords.

Every picture is cropped to its opaque part, scaled to 240 pixels on its longest side (premultiplied alpha) and centred.
Flags, letters, signs, gendered and skin-tone variants are left out. Needs ``resvg_py`` for the vector art.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import re
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .concepts import describe
from .scenes import draw_scenes

#: Groups of the emoji data that are not pictures of things.
SKIPPED = frozenset(
    str.split(
        "country-flag subdivision-flag keycap skin-tone hair-style alphanum av-symbol arrow transport-sign gender math "
        "currency punctuation"
    )
)
VECTOR_SETS = {"color": "fluent-emoji", "flat": "fluent-emoji-flat", "noto": "noto"}
RASTER = 480  # pixels that vector art is rendered at before it is scaled down


def slug(label: str) -> str:
    """Name of an icon: lower case, hyphens, no accents."""
    label = re.sub(r"[’'\.,:!()“”]", "", label.lower()).replace("&", "and")
    label = label.translate(str.maketrans("ñéôãçíå", "neoacia"))
    return re.sub(r"^-|-$", "", re.sub(r"[^a-z0-9]+", "-", label))


def icon_svg(collection: dict[str, Any], name: str) -> str | None:
    """SVG document of an icon; aliases that only rename are followed."""
    for _ in range(4):
        alias = collection.get("aliases", {}).get(name)
        if name in collection["icons"] or alias is None or set(alias) - {"parent"}:
            break
        name = alias["parent"]
    icon = collection["icons"].get(name)
    if icon is None:
        return None
    get = lambda key, default: icon.get(key, collection.get(key, default))  # noqa: E731
    width, height = get("width", 16), get("height", 16)
    box = f"{get('left', 0)} {get('top', 0)} {width} {height}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="{box}" '
        f'width="{width}" height="{height}">{icon["body"]}</svg>'
    )


def normalise(image: Image.Image) -> tuple[np.ndarray, float] | None:
    """RGBA uint8 ``[256, 256, 4]`` and width over height; None for (nearly) empty art."""
    pixels = np.asarray(image.convert("RGBA"), np.float32)
    rows, columns = np.nonzero(pixels[..., 3] > 12)
    if len(rows) < 50:
        return None
    crop = pixels[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].copy()
    crop[..., :3] *= crop[..., 3:] / 255
    height, width = crop.shape[:2]
    scale = 240 / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    channels = [
        np.asarray(Image.fromarray(np.ascontiguousarray(crop[..., k])).resize(size, Image.Resampling.LANCZOS))
        for k in range(4)
    ]
    alpha = np.clip(channels[3], 0, 255)
    rgb = np.clip(np.stack(channels[:3], -1) / np.maximum(alpha[..., None], 1e-3) * 255, 0, 255)
    rgb[alpha < 2] = 0
    out = np.zeros((256, 256, 4), np.uint8)
    y, x = (256 - size[1]) // 2, (256 - size[0]) // 2
    out[y : y + size[1], x : x + size[0], :3] = rgb.round()
    out[y : y + size[1], x : x + size[0], 3] = alpha.round()
    return out, width / height


def colour_figures(rgba: np.ndarray) -> dict[str, Any]:
    """Dominant hue (degrees, None without one), its share, saturated share, value, saturation, mean luma."""
    pixels = rgba[rgba[..., 3] > 128][:, :3].astype(np.float32) / 255
    high, low = pixels.max(1), pixels.min(1)
    spread = high - low
    saturation = spread / np.maximum(high, 1e-6)
    red, green, blue = pixels.T
    safe = np.maximum(spread, 1e-6)
    hue = 60 * np.where(
        high == red,
        ((green - blue) / safe) % 6,
        np.where(high == green, (blue - red) / safe + 2, (red - green) / safe + 4),
    )
    vivid = (saturation > 0.28) & (high > 0.25)
    figures: dict[str, Any] = {
        "hue": None, "conc": 0.0, "sf": float(vivid.mean()), "V": 0.0, "S": 0.0,
        "lum": float((pixels @ np.array([0.299, 0.587, 0.114], np.float32)).mean()),
    }  # fmt: skip
    if figures["sf"] > 0.15:
        counts, _ = np.histogram(hue[vivid], bins=72, range=(0, 360))
        smooth = np.convolve(np.r_[counts[-5:], counts, counts[:5]], np.ones(9), "same")[5:-5]
        centre = (int(smooth.argmax()) + 0.5) * 5
        near = vivid & (np.abs((hue - centre + 180) % 360 - 180) < 25)
        angle = np.deg2rad(hue[near])
        figures["hue"] = float(np.rad2deg(np.arctan2(np.sin(angle).mean(), np.cos(angle).mean())) % 360)
        figures["conc"] = float(near.sum() / max(1, vivid.sum()))
        figures["V"], figures["S"] = float(np.median(high[near])), float(np.median(saturation[near]))
    return figures


def render_one(job: tuple[str, str, int]) -> tuple[bytes, dict[str, Any]] | None:
    """WebP bytes and metadata of one picture; job: style, SVG text or path, concept."""
    style, source, concept = job
    if style == "3d":
        image = Image.open(source)
    else:
        import resvg_py

        image = Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=source, width=RASTER, height=RASTER))))
    found = normalise(image)
    if found is None:
        return None
    buffer = io.BytesIO()
    Image.fromarray(found[0]).save(buffer, "WEBP", quality=86, method=4, alpha_quality=90, exact=False)
    return buffer.getvalue(), {"c": concept, "style": style, "ar": found[1], **colour_figures(found[0])}


def collect(modules: Path) -> tuple[list[dict[str, Any]], list[tuple[str, str, int]]]:
    """Concepts with all their names and keywords, and the pictures to render."""
    read = lambda name: json.loads((modules / name).read_text(encoding="utf-8"))  # noqa: E731
    emoji = read("emojibase-data/en/data.json")
    shortcodes = [read(f"emojibase-data/en/shortcodes/{s}.json") for s in ("cldr", "github", "emojibase", "iamcal")]
    keywords = read("emojilib/dist/emoji-en-US.json")
    groups = {int(k): v for k, v in read("emojibase-data/meta/groups.json")["subgroups"].items()}
    collections = {style: read(f"@iconify-json/{name}/icons.json") for style, name in VECTOR_SETS.items()}
    folder_3d = modules / "@lobehub/fluent-emoji-3d/assets"
    files_3d = {p.name for p in folder_3d.iterdir()}
    concepts: list[dict[str, Any]] = []
    jobs: list[tuple[str, str, int]] = []
    for entry in emoji:
        group = groups.get(entry.get("subgroup"), "")
        if entry.get("group") in (None, 2) or group in SKIPPED:
            continue
        code, label = entry["hexcode"], entry["label"]
        names = [label]
        for table in shortcodes:
            value = table.get(code) or table.get(code.replace("-FE0F", "")) or []
            names += [n.replace("_", " ").replace("-", " ") for n in ([value] if isinstance(value, str) else value)]
        words = [*entry.get("tags", []), *(w.replace("_", " ") for w in keywords.get(entry["emoji"], []))]
        mine: list[tuple[str, str, int]] = []
        for style, collection in collections.items():
            svg = icon_svg(collection, slug(label))
            if svg:
                mine.append((style, svg, len(concepts)))
        low = code.lower()
        for name in (low, low.replace("-fe0f", ""), low + "-fe0f"):
            if f"{name}.webp" in files_3d:
                mine.append(("3d", str(folder_3d / f"{name}.webp"), len(concepts)))
                break
        if mine:
            jobs += mine
            concepts.append(
                {"hex": code, "emoji": entry["emoji"], "label": label, "names": names, "kws": words, "sub": group}
            )
    return concepts, jobs


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sources", required=True, help="folder that sources.py filled")
    parser.add_argument("--out", required=True, help="folder of the pack")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--limit", type=int, default=0, help="only the first so many pictures (a trial)")
    args = parser.parse_args(argv)
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    raw, jobs = collect(Path(args.sources) / "node_modules")
    described = describe(raw)  # index in raw -> concept
    jobs = [job for job in jobs if job[2] in described]
    if args.limit:
        jobs = jobs[: args.limit]
    order = {old: new for new, old in enumerate(dict.fromkeys(job[2] for job in jobs))}
    with multiprocessing.Pool(args.processes) as pool:
        results = pool.map(render_one, jobs, chunksize=16)
    from .concepts import dominant_colour

    images, offset = [], 0
    with (out / "pack.bin").open("wb") as file:
        for data, meta in (r for r in results if r):
            file.write(data)
            vivid = meta["hue"] is not None and meta["sf"] > 0.35 and meta["conc"] > 0.55
            images.append(
                {"c": order[meta["c"]], "style": meta["style"], "off": offset, "len": len(data), "hue": meta["hue"],
                 "col": dominant_colour(meta), "recol": vivid, "ar": meta["ar"]}
            )  # fmt: skip
            offset += len(data)
    scenes, types = draw_scenes(out / "scenes.bin")
    concepts = [described[old] for old in order]
    meta = {"concepts": concepts, "images": images, "scenes": scenes, "types": types}
    (out / "pack.json").write_text(json.dumps(meta), encoding="utf-8")
    print(f"{len(concepts)} concepts, {len(images)} pictures, {offset / 2**20:.1f} MiB, {len(scenes)} backgrounds")


if __name__ == "__main__":
    main()
