"""Step 1: fetch the openly licensed art and words, at pinned versions, and check their licences.

The packages come from npm through its own client. For each one the licence named in its metadata and the text of its
licence file are checked before anything is used; a package that fails stops the recipe. ``NOTICE.txt`` and the licence
texts are written beside the packages.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Source:
    """One package: pinned version, licence (SPDX), who made it, what is taken from it."""

    package: str
    version: str
    licence: str
    owner: str
    use: str
    #: Words that the licence file must contain; "" where the package ships no licence file.
    proof: str = ""


SOURCES = (
    Source("@lobehub/fluent-emoji-3d", "1.1.0", "MIT", "Microsoft Corporation (Fluent Emoji)",
           "pictures, Fluent 3D"),
    Source("@iconify-json/fluent-emoji", "1.2.7", "MIT", "Microsoft Corporation (Fluent Emoji)",
           "pictures, Fluent colour"),
    Source("@iconify-json/fluent-emoji-flat", "1.2.6", "MIT", "Microsoft Corporation (Fluent Emoji)",
           "pictures, Fluent flat"),
    Source("@iconify-json/noto", "1.2.9", "Apache-2.0", "Google Inc (Noto Emoji)", "pictures, Noto"),
    Source("emojibase-data", "17.0.0", "MIT", "Miles Johnson", "names, tags, shortcodes", "MIT License"),
    Source("emojilib", "4.0.3", "MIT", "Mu-An Chiou", "keywords", "MIT License"),
)  # fmt: skip


def declared_licence(folder: Path) -> str:
    """SPDX name in the package's metadata; icon collections name that of the art in ``info.json``."""
    info = folder / "info.json"
    if info.exists():
        return str(json.loads(info.read_text(encoding="utf-8"))["license"]["spdx"])
    return str(json.loads((folder / "package.json").read_text(encoding="utf-8"))["license"])


def check(modules: Path, source: Source) -> Path | None:
    """Check version and licence of one installed package; returns its licence file, if it has one."""
    folder = modules / source.package
    version = json.loads((folder / "package.json").read_text(encoding="utf-8"))["version"]
    if version != source.version:
        raise ValueError(f"{source.package}: version {version}, wanted {source.version}")
    licence = declared_licence(folder)
    if licence != source.licence:
        raise ValueError(f"{source.package}: licence {licence}, wanted {source.licence}")
    files = sorted(p for p in folder.iterdir() if p.name.lower().startswith("licen"))
    if source.proof and not (files and source.proof.lower() in files[0].read_text(encoding="utf-8").lower()):
        raise ValueError(f"{source.package}: no licence file that says {source.proof!r}")
    return files[0] if files else None


def notice() -> str:
    """Attributions of everything that the pictures and captions are made from."""
    lines = ["Starter model: training pictures and words", ""]
    lines += [f"- {s.package} {s.version}: {s.use}. (c) {s.owner}, {s.licence}" for s in SOURCES]
    lines += [
        "- Backgrounds (12 kinds) and all filters are drawn by the scripts of this recipe.",
        "",
        "No other pictures and no pretrained weights were used.",
    ]
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, help="folder for the packages (node_modules), licences and NOTICE.txt")
    parser.add_argument("--check-only", action="store_true", help="check packages that are there already")
    args = parser.parse_args(argv)
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    if not args.check_only:
        (out / "package.json").write_text('{"name": "starter-art", "private": true}\n')
        packages = [f"{s.package}@{s.version}" for s in SOURCES]
        flags = ["--no-audit", "--no-fund", "--ignore-scripts", "--no-package-lock"]
        subprocess.run(["npm", "install", *flags, *packages], cwd=out, check=True)
    licences = out / "licences"
    licences.mkdir(exist_ok=True)
    for source in SOURCES:
        file = check(out / "node_modules", source)
        if file:
            shutil.copyfile(file, licences / (source.package.replace("/", "_").lstrip("@") + ".txt"))
        print(f"{source.package} {source.version}: {source.licence}, licence file {'yes' if file else 'no'}")
    (out / "NOTICE.txt").write_text(notice())


if __name__ == "__main__":
    main()
