"""Models are found where people keep them: at any depth, through links, in the trees of other programs."""

import json
import os
import pickle
import shutil
import sqlite3
import zipfile
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from diffusion_local.compose import Services, open_services
from diffusion_local.errors import InvalidParams
from diffusion_local.models.catalog import Catalog
from diffusion_local.models.directories import ModelDirectories, walk
from diffusion_local.models.ids import ModelIds
from diffusion_local.models.program_roots import find_folders
from diffusion_local.models.service import Library
from diffusion_local.paths import assets
from diffusion_local.settings import Settings
from tests.models import files
from tests.models.files import write_header


@pytest.fixture
def catalog(services: Services) -> Catalog:
    return services.catalog


@pytest.fixture
def library(services: Services) -> Library:
    return services.studio.library


def names(folder: Path) -> list[str]:
    return [seen.path.relative_to(folder).as_posix() for seen in walk(folder)]


def test_a_walk_finds_files_at_any_depth_in_order(tmp_path: Path) -> None:
    for name in ("b.safetensors", "a/deep/er/and/deeper/x.sft", "a/y.GGUF", "z.PTH", "notes.txt",
        ".hidden/h.safetensors",
                 "venv/lib/v.safetensors", "part.safetensors.part"):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert names(tmp_path) == ["a/deep/er/and/deeper/x.sft", "a/y.GGUF", "b.safetensors", "z.PTH"]


def test_links_are_followed_and_loops_end(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    write_header(elsewhere / "one.safetensors", files.LORA)
    home = tmp_path / "home"
    home.mkdir()
    (home / "linked").symlink_to(elsewhere)
    (home / "again").symlink_to(elsewhere)
    (elsewhere / "up").symlink_to(home)
    (home / "self").symlink_to(home)
    (home / "dangling").symlink_to(tmp_path / "nothing")
    assert names(home) == ["again/one.safetensors"]  # each folder once


def test_the_walk_takes_a_diffusers_folder_whole_and_later_shards_not_at_all(tmp_path: Path) -> None:
    shutil.copytree(assets() / "starter", tmp_path / "tree/starter")
    write_header(tmp_path / "part/model.safetensors", files.VAE)
    (tmp_path / "part/config.json").write_text("{}")
    for number in (1, 2, 3):
        write_header(tmp_path / f"sharded/flux-{number:05}-of-00003.safetensors", files.FLUX)
    assert names(tmp_path) == ["part", "sharded/flux-00001-of-00003.safetensors", "tree/starter"]


@pytest.mark.parametrize("name", ["model.safetensors", "model-v2-anime.safetensors", "deep/d2/d3/d4/d5/x.safetensors"])
def test_a_checkpoint_is_found_whatever_it_is_called(catalog: Catalog, settings: Settings, name: str) -> None:
    write_header(settings.models / name, files.SD1)
    assert [model.ready for model in catalog.all()] == [True, True]


@pytest.mark.parametrize("suffix", [".SAFETENSORS", ".sft", ".Safetensors"])
def test_suffixes_in_any_spelling_are_listed_and_ready(catalog: Catalog, settings: Settings, suffix: str) -> None:
    for folder, shapes in ((settings.models, files.SD1), (settings.loras, files.LORA), (settings.vae, files.VAE)):
        write_header(folder / f"Caps{suffix}", shapes)
    found = [catalog.get("Caps"), *catalog.loras(), *catalog.vaes()]
    assert [each.ready for each in found] == [True, True, True]


def test_an_id_keeps_meaning_the_same_file(settings: Settings, services: Services) -> None:
    second = write_header(settings.models / "z/same.safetensors", files.SDXL)
    assert services.catalog.get("same").path == second
    first = write_header(settings.models / "a/same.safetensors", files.SD1)
    for catalog in (services.catalog, open_services(settings).catalog):
        ids = {model.id: model.path for model in catalog.all()[1:]}
        assert ids == {"same": second, "a--same": first}
    second.unlink()
    second.parent.rmdir()
    assert [model.id for model in open_services(settings).catalog.all()[1:]] == ["a--same"]
    third = write_header(settings.models / "b/same.safetensors", files.SD2)
    assert {model.id: model.path for model in services.catalog.all()[1:]} == {"a--same": first, "b--same": third}


def test_a_file_that_was_moved_keeps_its_id(settings: Settings, services: Services) -> None:
    write_header(settings.models / "other/same.safetensors", files.SDXL)
    old = write_header(settings.models / "same.safetensors", files.SD1)
    before = {model.id: model.family for model in services.catalog.all()[1:]}
    (settings.models / "sorted").mkdir()
    old.rename(settings.models / "sorted/same.safetensors")
    assert {model.id: model.family for model in services.catalog.all()[1:]} == before


def test_ids_of_a_home_that_cannot_be_written_to_hold_in_memory(tmp_path: Path) -> None:
    path = write_header(tmp_path / "x.safetensors", files.SD1)
    ids = ModelIds(tmp_path / "nowhere/ids.json")
    assert ids.assign([path], {path: "x"}) == {path: "x"}
    assert ids.assign([path], {path: "x"}) == {path: "x"}


@pytest.mark.parametrize("content", ["", "[]", '{"x": 3}', '{"x": {"path": 4}}', "{", "\udce9"])
def test_a_damaged_list_of_ids_is_begun_anew(tmp_path: Path, content: str) -> None:
    (tmp_path / "ids.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    path = write_header(tmp_path / "x.safetensors", files.SD1)
    assert ModelIds(tmp_path / "ids.json").assign([path], {path: "x"}) == {path: "x"}


# -- trees of other programs -------------------------------------------------------------------------------------------


def everything(root: Path, folders: dict[str, str]) -> None:
    """One file of each kind in the folders of a program."""
    kinds = {
        "checkpoint": files.SD1, "lora": files.LORA, "vae": files.VAE, "upscaler": files.UPSCALER,
        "embedding": files.EMBEDDING, "denoiser": files.FLUX, "text_encoder": files.TEXT_ENCODER,
        "controlnet": {"control_model.input_blocks.0.0.weight": (320, 4, 3, 3)},
    }  # fmt: skip
    for kind, folder in folders.items():
        write_header(root / folder / f"{kind}-{root.name}.safetensors", kinds[kind])


COMFY = {
    "checkpoint": "models/checkpoints/sub/sub", "lora": "models/loras", "vae": "models/vae", "upscaler":
    "models/upscale_models",
    "embedding": "models/embeddings", "denoiser": "models/diffusion_models", "text_encoder": "models/text_encoders",
    "controlnet": "models/controlnet",
}  # fmt: skip
A1111 = {
    "checkpoint": "models/Stable-diffusion", "lora": "models/Lora", "vae": "models/VAE", "upscaler": "models/ESRGAN",
    "embedding": "embeddings", "denoiser": "models/Stable-diffusion", "text_encoder": "models/text_encoder",
    "controlnet": "models/ControlNet",
}  # fmt: skip
INVOKE = dict.fromkeys(COMFY, "models/0f3b-uuid") | {"lora": "models/sd-1/lora", "checkpoint": "models/sd-1/main"}
SWARM = {kind: folder.replace("models/", "Models/") for kind, folder in COMFY.items()}
FLAT = {kind: f"publisher/{kind}-repo" for kind in COMFY}


@pytest.mark.parametrize(
    ("folders", "marks"),
    [
        (COMFY, ("comfy/", "custom_nodes/", "main.py")),
        (A1111, ("webui.py", "modules/", "extensions-builtin/")),
        (INVOKE, ("invokeai.yaml", "databases/")),
        (SWARM, ("SwarmUI.sln", "dlbackend/", "src/")),
        (FLAT, ()),
    ],
    ids=["comfyui", "a1111", "invokeai", "swarmui", "publisher folders"],
)
def test_a_programs_root_is_used_in_place(
    library: Library, services: Services, tmp_path: Path, folders: dict[str, str], marks: tuple[str, ...]
) -> None:
    root = tmp_path / "program"
    everything(root, folders)
    write_header(root / "outputs/some/weights.safetensors", files.SD1)
    write_header(root / "venv/lib/weights.safetensors", files.SD1)
    for mark in marks:
        (root / mark).mkdir(parents=True, exist_ok=True) if mark.endswith("/") else (root / mark).touch()
    assert [model.id for model in library.add(str(root))] == ["checkpoint-program"]
    assert {model.id for model in library.models()} == {"starter", "checkpoint-program", "denoiser-program"}
    adapters = {folder: [each.name for each in found] for folder, found in library.adapters().items()}
    assert adapters == {
        "loras": ["lora-program"], "vae": ["vae-program"], "upscalers": ["upscaler-program"],
        "embeddings": ["embedding-program"], "controlnet": ["controlnet-program", "starter-edges"],
        "text_encoders": ["text_encoder-program"],
        "ip_adapters": [], "clip_vision": [],
    }  # fmt: skip
    params = services.catalog.complete("x <lora:lora-program:0.5>", {"seed": 1, "model": "checkpoint-program"})
    assert [(each.name, each.weight) for each in params.loras] == [("lora-program", 0.5)]
    write_header(root / folders["lora"] / "new.safetensors", files.LORA)  # it is looked into again
    assert "new" in [each.name for each in library.adapters()["loras"]]


def test_the_engine_finds_what_lies_elsewhere(library: Library, services: Services, tmp_path: Path) -> None:
    from diffusion_local.engine.inputs import PictureInputs

    everything(tmp_path / "ComfyUI", COMFY)
    (tmp_path / "ComfyUI/comfy").mkdir()
    library.add(str(tmp_path / "ComfyUI"))
    materials = PictureInputs(services.settings, services.files.open_source)
    assert materials.lora("lora-ComfyUI").parent.name == "loras"
    assert materials.embeddings()["embedding-ComfyUI"].is_file()


def test_the_portable_package_holds_the_program(tmp_path: Path) -> None:
    everything(tmp_path / "ComfyUI_windows_portable/ComfyUI", COMFY)
    (tmp_path / "ComfyUI_windows_portable/ComfyUI/comfy").mkdir()
    found = [place.file.path.name for place in find_folders(tmp_path / "ComfyUI_windows_portable")]
    assert len(found) == len(COMFY)


def cached_model(hub: Path, repo: str, commits: tuple[str, ...], main: str = "") -> Path:
    """A repository as the hub's cache has it: content in blobs, and links in snapshots."""
    folder = hub / f"models--{repo.replace('/', '--')}"
    for commit in commits:
        snapshot = folder / "snapshots" / commit
        for path in (assets() / "starter").rglob("*"):
            if path.is_file():
                blob = folder / "blobs" / f"{path.parent.name}-{path.name}"
                blob.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, blob)
                link = snapshot / path.relative_to(assets() / "starter")
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(os.path.relpath(blob, link.parent))
    if main:
        (folder / "refs").mkdir()
        (folder / "refs/main").write_text(main)
    return folder


@pytest.mark.parametrize(
    "start", ["", "hub", "hub/models--someone--tiny", "hub/models--someone--tiny/snapshots/" + "a" * 40]
)
def test_the_hubs_cache_is_known_from_any_folder_of_it(library: Library, tmp_path: Path, start: str) -> None:
    cached_model(tmp_path / "hub", "someone/tiny", ("a" * 40,))
    [model] = library.add(str(tmp_path / start))
    assert model.ready
    assert model.id == ("a" * 40 if "snapshots" in start else "tiny")


def test_of_several_snapshots_the_one_that_main_names_counts(tmp_path: Path) -> None:
    folder = cached_model(tmp_path, "someone/tiny", ("a" * 40, "b" * 40), main="a" * 40)
    assert [place.file.path for place in find_folders(tmp_path)] == [folder / "snapshots" / ("a" * 40)]
    (folder / "refs/main").write_text("../../../etc")
    assert [place.file.path.parent for place in find_folders(tmp_path)] == [folder / "snapshots"]


def test_a_language_model_in_the_cache_makes_no_line(library: Library, tmp_path: Path) -> None:
    cached_model(tmp_path / "hub", "someone/tiny", ("a" * 40,))
    other = tmp_path / "hub/models--someone--llm/snapshots/abc"
    write_header(other / "model.safetensors", {"x.weight": (4, 4)})
    (other / "config.json").write_text("{}")
    library.add(str(tmp_path / "hub"))
    assert [model.id for model in library.models()] == ["starter", "tiny"]


def test_a_list_of_further_folders_is_read(library: Library, tmp_path: Path) -> None:
    everything(tmp_path / "data", COMFY)
    everything(tmp_path / "webui", A1111)
    text = f"""
comfyui:
    base_path: {tmp_path}/data
    is_default: true
    checkpoints: models/checkpoints/
    loras: |
        models/loras
        models/nothing
a111:
    base_path: webui
    vae: models/VAE
other: nonsense
"""
    path = tmp_path / "extra_model_paths.yaml"
    path.write_text(text)
    assert [model.id for model in library.add(str(path))] == ["checkpoint-data"]
    adapters = library.adapters()
    assert [each.name for each in adapters["loras"]] == ["lora-data"]
    assert [each.name for each in adapters["vae"]] == ["vae-webui"]


def test_a_list_in_the_portable_package_may_name_variables_and_several_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "ComfyUI_windows_portable/ComfyUI"
    everything(root, COMFY)
    everything(tmp_path / "my data", COMFY)
    monkeypatch.setenv("MODELS_DISK", str(tmp_path / "my data"))
    (root / "extra_model_paths.yaml").write_text(
        "comfyui:\n  base_path: $MODELS_DISK\n  is_default: true\n  loras: [models/loras, models/none, 3]\n"
        "  vae: ${MODELS_DISK}/models/vae\n"
    )
    names = {each.file.path.name for each in find_folders(root.parent)}
    assert {"lora-my data.safetensors", "vae-my data.safetensors", "checkpoint-ComfyUI.safetensors"} <= names
    assert "checkpoint-my data.safetensors" not in names


def test_stability_matrix_in_a_portable_folder(tmp_path: Path) -> None:
    everything(tmp_path / "StabilityMatrix/Data", SWARM)
    write_header(tmp_path / "StabilityMatrix/Data/Packages/ComfyUI/models/checkpoints/x.safetensors", files.SD1)
    found = {each.file.path.parts[-2] for each in find_folders(tmp_path / "StabilityMatrix")}
    assert "loras" in found
    assert "x.safetensors" not in {each.file.path.name for each in find_folders(tmp_path / "StabilityMatrix")}


@pytest.mark.parametrize("table", ["models", "model_config"])
def test_invokeais_folders_are_named_as_in_its_database(library: Library, tmp_path: Path, table: str) -> None:
    """Its sixth version puts the parts of each model into a folder that is a number."""
    root = tmp_path / "invokeai"
    number = "0f3b8a52-52f1-4c1f-9f0a-8e1b1f5a2f10"
    for name in ("model_index.json", "unet/config.json"):
        (root / "models" / number / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "models" / number / name).write_text("{}")
    outside = write_header(tmp_path / "elsewhere/own file.safetensors", files.SD1)
    (root / "databases").mkdir()
    entries = [{"name": "Juggernaut XL v9", "path": number}, {"name": "Own", "path": str(outside)}, {"name": 3}, "x"]
    with closing(sqlite3.connect(root / "databases/invokeai.db")) as connection:
        connection.execute(f"create table {table} (id text, config text)")
        connection.executemany(f"insert into {table} values ('', ?)", [(json.dumps(each),) for each in entries])
        connection.commit()
    before = sorted(path.name for path in (root / "databases").iterdir())
    library.add(str(root))
    assert [model.id for model in library.models()] == ["starter", "Juggernaut XL v9", "own file"]
    assert sorted(path.name for path in (root / "databases").iterdir()) == before
    (root / "databases/invokeai.db").write_bytes(b"SQLite format 3\0 damaged")
    assert len(library.models()) == 2  # without names, and without what lies elsewhere


@pytest.mark.parametrize(
    "text", ["", "3", "[1, 2]", "a: {b: [", "!!python/object/apply:os.system ['true']", "a: " * 9000]
)
def test_a_strange_list_names_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "extra_model_paths.yaml").write_text(text)
    assert list(find_folders(tmp_path / "extra_model_paths.yaml")) == []


@pytest.mark.parametrize("path", ["~no-such-user/models", "x" * 5000, "a/" * 3000, "a\x7fb"])
def test_a_path_that_cannot_be_is_refused_by_name(library: Library, path: str) -> None:
    with pytest.raises(InvalidParams, match="path: must be a file or folder on this machine"):
        library.add(path)


def test_a_list_with_an_unknown_user_or_aliases_without_end_names_nothing(tmp_path: Path) -> None:
    text = "a: &a [x, x, x, x, x, x, x, x, x]\n"
    for name, before in zip("bcdefghijklm", "abcdefghijkl", strict=True):
        text += f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n"
    text += "comfyui: {base_path: *m, loras: models}\na111: {base_path: ~no-such-user/x, vae: ~no-such-user/y}\n"
    (tmp_path / "extra_model_paths.yaml").write_text(text)
    assert list(find_folders(tmp_path / "extra_model_paths.yaml")) == []


def test_a_folder_whose_disk_is_away_says_so(library: Library, tmp_path: Path) -> None:
    write_header(tmp_path / "disk/one.safetensors", files.SD1)
    library.add(str(tmp_path / "disk"))
    (tmp_path / "disk").rename(tmp_path / "away")
    problems = [model.problem for model in library.models()[1:]]
    assert problems == ["The folder disk does not exist: its disk or share may not be mounted."]
    (tmp_path / "away").rename(tmp_path / "disk")
    assert [model.id for model in library.models() if model.ready] == ["starter", "one"]


@pytest.mark.parametrize(
    "metadata", [{"ss_tag_frequency": '{"a": {"x": Infinity}}'}, {"ss_tag_frequency": "[" * 99_999}]
)
def test_strange_notes_of_training_are_left_out(catalog: Catalog, settings: Settings, metadata: dict[str, str]) -> None:
    write_header(settings.loras / "ink.safetensors", files.LORA, metadata=metadata)
    [ink] = catalog.loras()
    assert (ink.name, ink.state, ink.words) == ("ink", "ready", ())


@pytest.mark.parametrize("name", ["model_index.json", "unet/config.json", "scheduler/scheduler_config.json"])
def test_a_configuration_nested_without_end_hides_no_other_model(
    catalog: Catalog, settings: Settings, name: str
) -> None:
    for folder in (settings.models / "deep", settings.configs_folder / "deep"):
        for each in ("model_index.json", "unet/config.json", "scheduler/scheduler_config.json", name):
            (folder / each).parent.mkdir(parents=True, exist_ok=True)
            (folder / each).write_text("[" * 99_999 if each == name else '{"_class_name": "StableDiffusionPipeline"}')
        (folder / "unet/diffusion_pytorch_model.safetensors").write_bytes(b"x")
    write_header(settings.models / "mine.safetensors", files.SD1)
    assert {model.id: model.ready for model in catalog.all()} == {"starter": True, "deep": False, "mine": True}


def test_a_file_that_no_reader_foresaw_hides_no_other(
    catalog: Catalog, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diffusion_local.models import adapters, index

    def fail(path: Path, *value: Any) -> Any:
        if path.stem in ("read", "described"):
            raise OverflowError("too large")
        return real(path, *value)

    for folder, shapes in ((settings.models, files.SD1), (settings.loras, files.LORA)):
        for name in ("mine", "read"):
            write_header(folder / f"{name}.safetensors", shapes)
    real = index.read_file
    monkeypatch.setattr(index, "read_file", fail)
    problem = "read.safetensors cannot be read (OverflowError: too large)"
    assert [model.ready for model in catalog.all()] == [True, True, False]
    assert catalog.get("read").problem.startswith(problem)
    assert [(each.ready, str(each.problem)[:58]) for each in catalog.loras()] == [(True, ""), (False, problem)]
    write_header(settings.loras / "described.safetensors", files.LORA)
    real = adapters.describe
    monkeypatch.setattr(adapters, "describe", fail)
    assert [each.ready for each in catalog.loras()] == [False, True, False]


# -- LoRAs by their names ----------------------------------------------------------------------------------------------


def test_a_lora_in_a_folder_is_found_by_its_bare_name(catalog: Catalog, settings: Settings) -> None:
    write_header(settings.models / "mine.safetensors", files.SD1)
    write_header(settings.loras / "style/ink/pen.safetensors", files.LORA)
    for prompt, options in (("x <lora:pen:0.8>", {}), ("x", {"loras": ["pen"]}), ("x <lora:style/ink/pen:0.8>", {})):
        params = catalog.complete(prompt, {"seed": 1, "model": "mine"} | options)
        assert [each.name for each in params.loras] == ["style/ink/pen"]
    write_header(settings.loras / "other/pen.safetensors", files.LORA)
    with pytest.raises(InvalidParams, match="names more than one file: 'pen'") as problem:
        catalog.complete("x <lora:pen:0.8>", {"seed": 1, "model": "mine"})
    assert "other/pen, style/ink/pen" in problem.value.message
    write_header(settings.loras / "pen.safetensors", files.LORA)  # a whole name goes before
    assert catalog.complete("x <lora:pen:0.8>", {"seed": 1, "model": "mine"}).loras[0].name == "pen"


def test_what_is_made_for_another_base_is_refused_before_the_job_waits(catalog: Catalog, settings: Settings) -> None:
    write_header(settings.models / "mine.safetensors", files.SDXL)
    write_header(settings.vae / "sd15-mse.safetensors", files.VAE)
    write_header(settings.embeddings / "zwirbel.safetensors", files.EMBEDDING)
    options = {"seed": 1, "model": "mine"}
    with pytest.raises(InvalidParams, match="vae: cannot be 'sd15-mse': it is made for SD 1, not SDXL"):
        catalog.complete("x", options | {"vae": "sd15-mse"})
    with pytest.raises(
        InvalidParams, match=r"negative: contains the word of the textual inversion 'zwirbel'.*SD 1, not SDXL"
    ):
        catalog.complete("x", options | {"negative": "a Zwirbel"})
    assert catalog.complete("zwirbeln", options).prompt == "zwirbeln"
    write_header(settings.vae / "some.safetensors", files.VAE)  # tells nothing: taken
    assert catalog.complete("x", options | {"vae": "some"}).vae == "some"


def test_a_scan_imports_nothing_heavy(services: Services, tmp_path: Path) -> None:
    from tests.support import run_python

    write_header(services.settings.models / "mine.safetensors", files.SD1)
    text = run_python(
        "import sys; from pathlib import Path; from diffusion_local.models.index import ModelIndex;"
        "from diffusion_local.models.directories import ModelDirectories;"
        f"s = ModelIndex(ModelDirectories(Path({str(services.settings.models)!r})));"
        "assert len(s.entries()) == 1; print([n for n in ('torch', 'numpy', 'diffusers') if n in sys.modules])"
    )
    assert text.strip() == "[]"
    assert json.loads(text.strip()) == []


def test_white_space_around_a_file_name_is_no_part_of_its_name(catalog: Catalog, settings: Settings) -> None:
    write_header(settings.models / "mine.safetensors", files.SD1)
    for name in (" ink", "pen ", " my brush ", "style / lead"):
        write_header(settings.loras / f"{name}.safetensors", files.LORA)
    assert [each.name for each in catalog.loras()] == ["ink", "my brush", "pen", "style / lead"]
    for name in ("ink", "pen", "my brush", "style / lead"):
        for prompt, options in ((f"x <lora:{name}:0.8>", {}), ("x", {"loras": f"{name}:0.8"})):
            params = catalog.complete(prompt, {"seed": 1, "model": "mine"} | options)
            assert [str(each) for each in params.loras] == [f"{name}:0.8"]


def test_a_file_whose_name_cannot_be_written_says_so(catalog: Catalog, settings: Settings) -> None:
    for name in ("a\\b", "a\nb", "x" * 201):
        write_header(settings.loras / f"{name}.safetensors", files.LORA)
    write_header(settings.loras / "fine.safetensors", files.LORA)
    assert {each.name for each in catalog.loras() if each.ready} == {"fine"}
    assert all("rename the file" in each.problem for each in catalog.loras() if not each.ready)


def test_a_lora_keeps_its_name_when_another_of_that_name_appears(
    library: Library, catalog: Catalog, settings: Settings, tmp_path: Path
) -> None:
    def names() -> dict[str, Path]:
        return {
            each.name: each.path
            for each in Catalog(assets() / "starter", ModelDirectories.from_settings(settings)).loras()
        }

    write_header(settings.models / "mine.safetensors", files.SD1)
    first = write_header(tmp_path / "A1111/zoo/ink.safetensors", files.LORA)
    write_header(tmp_path / "A1111/some.safetensors", files.SD1)
    library.add(str(tmp_path / "A1111"))
    assert names() == {"ink": first}
    second = write_header(settings.loras / "ink.safetensors", files.LORA)
    third = settings.loras / "ink.bin"
    third.write_bytes(second.read_bytes())
    found = names()
    assert (found["ink"], len(found)) == (first, 3)
    assert set(found.values()) == {first, second, third}
    converted = first.rename(first.with_suffix(".sft"))
    assert names() == found | {"ink": converted}
    converted.unlink()
    assert set(names().values()) == {second, third}
    assert "ink" not in names()  # a job that waits for it is refused by name


def test_a_configuration_that_may_not_be_read_hides_no_model(
    catalog: Catalog, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.is_file

    def is_file(path: Path) -> bool:
        if "closed" in path.parts:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    (settings.configs_folder / "closed").mkdir(parents=True)
    write_header(settings.models / "mine.safetensors", files.SD1)
    monkeypatch.setattr(Path, "is_file", is_file)
    assert catalog.get("mine").ready


def test_a_folder_that_may_not_be_read_is_told_once(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    closed, scandir = settings.loras / "closed", os.scandir
    closed.mkdir(parents=True)

    def refuse(folder: Any) -> Any:
        if Path(folder) == closed:  # permissions do not bind the administrator, who may run this
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    assert list(walk(settings.loras)) == list(walk(settings.loras)) == []
    assert [record.message for record in caplog.records] == [
        f"this user may not read the folder {closed}; files in it are not listed"
    ]


def test_add_ons_and_refused_checkpoints_in_added_folders_are_named(
    library: Library, catalog: Catalog, tmp_path: Path
) -> None:
    """Pickles with other suffixes may belong to any program."""
    write_header(tmp_path / "one.safetensors", files.SD1)
    write_header(tmp_path / "pulid\nflux.safetensors", {"pulid_ca.0.to_q.weight": (8, 8)})
    for name in ("old.ckpt", "other.pt"):
        (tmp_path / name).write_bytes(pickle.dumps(files.Trap(tmp_path / "ran")))
    with zipfile.ZipFile(tmp_path / "zipped.safetensors", "w") as archive:
        archive.writestr("model.safetensors", "x")
    library.add(str(tmp_path))
    told = {each.id: each.problem for each in catalog.all() if each.path.is_relative_to(tmp_path)}
    assert set(told) == {"one", "pulid flux", "old", "zipped"}
    assert "It is an identity adapter" in told["pulid flux"]
    assert "would run code" in told["old"]
    assert "is an archive (ZIP), not a model" in told["zipped"]
    assert not (tmp_path / "ran").exists()
