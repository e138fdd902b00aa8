"""What a person does with models: add what lies elsewhere, take out, ask for downloads."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from diffusion_local import actor, families
from diffusion_local.actor import Role
from diffusion_local.compose import Services, open_services
from diffusion_local.domain import Fit, Kind
from diffusion_local.errors import Conflict, Forbidden, InvalidParams, NotFound
from diffusion_local.models.curated import curated_models
from diffusion_local.models.digests import Digests
from diffusion_local.models.service import Library
from diffusion_local.paths import assets
from tests.models import files
from tests.models.files import write_header
from tests.support import refused


@pytest.fixture
def library(services: Services) -> Library:
    return services.studio.library


def test_a_checkpoint_elsewhere_is_used_where_it_lies(library: Library, services: Services, tmp_path: Path) -> None:
    path = write_header(tmp_path / "data/mine.safetensors", files.SD1)
    [model] = library.add(str(path))
    assert (model.id, model.path, model.ready) == ("mine", path, True)
    assert list(services.settings.models.iterdir()) == []
    assert open_services(services.settings).catalog.get("mine").path == path


def test_a_folder_of_checkpoints_gives_all_of_them_also_new_ones(library: Library, tmp_path: Path) -> None:
    write_header(tmp_path / "data/one.safetensors", files.SD1)
    write_header(tmp_path / "data/deep/two.safetensors", files.SDXL)
    assert {model.id for model in library.add(str(tmp_path / "data"))} == {"one", "two"}
    write_header(tmp_path / "data/three.safetensors", files.SD2)
    assert {model.id for model in library.models()} == {"starter", "one", "two", "three"}


def test_a_diffusers_folder_elsewhere_is_one_model(library: Library, tmp_path: Path) -> None:
    shutil.copytree(assets() / "starter", tmp_path / "copy")
    [model] = library.add(str(tmp_path / "copy"))
    assert (model.id, model.family, model.ready) == ("copy", "sd", True)


def test_equal_names_get_ids_of_their_own(library: Library, services: Services, tmp_path: Path) -> None:
    write_header(services.settings.models / "same.safetensors", files.SD1)
    library.add(str(write_header(tmp_path / "data/same.safetensors", files.SDXL)))
    assert [model.id for model in library.models()] == ["starter", "same", "data--same"]
    assert library.model("data--same").family == "sdxl"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: path / "nothing", "does not exist"),
        (lambda path: path.mkdir() or path, "has no usable model"),
        (lambda path: write_header(path / "x.safetensors", files.LORA), "It is a LoRA"),
        (lambda path: write_header(path / "x.safetensors", files.FLUX), "needs CLIP-L, T5-XXL and the VAE of FLUX.1"),
    ],
)
def test_what_cannot_be_used_is_refused_and_not_remembered(
    library: Library, services: Services, tmp_path: Path, make: Any, words: str
) -> None:
    with pytest.raises(InvalidParams, match="path") as refused:
        library.add(str(make(tmp_path / "data")))
    assert words in refused.value.message
    assert not (services.settings.home / "models.json").exists()


def test_what_lies_in_models_needs_no_adding(library: Library, services: Services) -> None:
    path = write_header(services.settings.models / "mine.safetensors", files.SD1)
    with refused(InvalidParams, "local_inside", field="path"):
        library.add(str(path))


def test_taking_out_leaves_files_elsewhere_alone(library: Library, tmp_path: Path) -> None:
    path = write_header(tmp_path / "data/mine.safetensors", files.SD1)
    library.add(str(path))
    removed = library.remove("mine")
    assert (removed.moved_to, path.exists()) == ("", True)
    assert "its files are where they were" in removed.words
    assert [model.id for model in library.models()] == ["starter"]


def test_taking_out_of_models_moves_it_aside(library: Library, services: Services) -> None:
    for _ in range(2):
        path = write_header(services.settings.models / "mine.safetensors", files.SD1)
        removed = library.remove("mine")
        assert not path.exists()
        assert Path(removed.moved_to).is_file()
        assert Path(removed.moved_to).parent == services.settings.removed
    assert len(list(services.settings.removed.iterdir())) == 2


def test_a_model_keeps_the_precision_chosen_for_it(library: Library, services: Services) -> None:
    services.fits.save(Fit("starter", Kind.TXT2IMG, 256, 256, "A GPU", worked="resident", peak_bytes=1))
    assert library.model("starter").chosen_precision == ""
    assert library.set_precision("starter", "int8").chosen_precision == "int8"
    assert library.fits() == {}  # measured with other weights
    assert [model.chosen_precision for model in open_services(services.settings).catalog.all()] == ["int8"]
    with pytest.raises(InvalidParams, match="one of auto, stored"):
        library.set_precision("starter", "int7")
    with pytest.raises(NotFound):
        library.set_precision("nothing", "int8")
    (services.settings.home / "model-choices.json").write_text("damaged")
    assert library.model("starter").chosen_precision == ""
    library.set_precision("starter", "nf4")
    assert library.set_precision("starter").chosen_precision == ""


def test_the_starter_stays_and_the_unknown_is_named(library: Library) -> None:
    with refused(Conflict, "starter_stays"):
        library.remove("starter")
    with refused(NotFound, "no_model_named"):
        library.remove("x")


@pytest.mark.parametrize(
    ("wish", "field", "words"),
    [
        ({"repo": ""}, "repo", "must not be empty"),
        ({"repo": "sdxl"}, "repo", "such as stabilityai/sdxl-turbo"),
        ({"repo": "../etc/passwd"}, "repo", "must be an id"),
        ({"repo": "a/.."}, "repo", "must be an id"),
        ({"repo": "a/b", "into": "gallery"}, "into", "must be one of models"),
        ({"repo": "a/b", "into": "loras"}, "file", "must name"),
        ({"repo": "a/b", "file": "../../x.safetensors"}, "file", "within the repository"),
        ({"repo": "a/b", "file": "C:\\x.safetensors"}, "file", "within the repository"),
        ({"repo": "a/b", "file": "x.zip"}, "file", "must be a file of weights"),
        ({"repo": "a/b", "file": "x" * 200 + ".safetensors"}, "file", "at most 100"),
        ({"repo": 7}, "repo", "must be text"),
    ],
)
def test_a_bad_wish_is_refused_before_anything_is_asked(library: Library, wish: Any, field: str, words: str) -> None:
    with pytest.raises(InvalidParams) as refused:
        library.download(**wish)
    assert refused.value.field == field
    assert words in refused.value.message
    assert library.downloads() == []


def test_an_address_of_the_hub_is_taken_too(library: Library) -> None:
    assert library.download("https://huggingface.co/stabilityai/sdxl-turbo/").repo == "stabilityai/sdxl-turbo"
    for address, expected in (
        ("https://huggingface.co/a/b/blob/main/x/y%20z.safetensors", ("a/b", "main", "x/y z.safetensors")),
        ("https://huggingface.co/a/b/resolve/v1.0/z.safetensors?download=true", ("a/b", "v1.0", "z.safetensors")),
        ("https://hf.co/a/c", ("a/c", "main", "")),
        ("https://huggingface.co/a/d/tree/fp16", ("a/d", "fp16", "")),
    ):
        found = library.download(address)
        assert (found.repo, found.revision, found.file) == expected
    for address in ("https://huggingface.co/a/b/blob/main/../../x.safetensors", "https://elsewhere.example/a/b"):
        with pytest.raises(InvalidParams):
            library.download(address)


def test_what_is_there_is_not_loaded_over(library: Library, services: Services) -> None:
    shutil.copytree(assets() / "starter", services.settings.models / "tiny")
    assert library.download("someone/tiny").name == "someone--tiny"
    (services.settings.models / "tiny/diffusion-local.json").write_text('{"repo": "other/tiny"}')
    with refused(Conflict, "there_as"):
        library.download("other/tiny")
    write_header(services.settings.loras / "style.safetensors", files.LORA)
    with refused(Conflict, "there_remove"):
        library.download("a/b", "style.safetensors", "loras")


@pytest.mark.parametrize(
    "act",
    [
        lambda library: library.add("/x"),
        lambda library: library.remove("x"),
        lambda library: library.set_precision("starter", "nf4"),
        lambda library: library.download("a/b"),
        lambda library: library.cancel_download("x"),
    ],
)
def test_changes_take_an_admin(library: Library, act: Any) -> None:
    user = actor.Actor("ada", Role.USER, actor.SCOPES[Role.USER])
    with actor.acting(user), pytest.raises(Forbidden):
        act(library)


def test_digests_are_computed_once_and_again_after_a_change(library: Library, services: Services) -> None:
    import hashlib

    path = write_header(services.settings.models / "mine.safetensors", files.VAE | files.SD1)
    shutil.copytree(assets() / "starter", services.settings.models / "copy")
    write_header(services.settings.loras / "style.safetensors", files.LORA)
    assert library.model("mine").sha256 == ""
    Digests(services.catalog.index).run()
    assert library.model("mine").sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert len(library.model("copy").sha256) == 64
    assert len(services.catalog.loras()[0].sha256) == 64
    known = (services.settings.home / "hashes.json").stat().st_mtime_ns
    Digests(services.catalog.index).run()
    assert (services.settings.home / "hashes.json").stat().st_mtime_ns == known
    write_header(path, files.SDXL)
    assert library.model("mine").sha256 == ""


def test_one_digest_is_computed_when_it_is_asked_for_and_the_starters_too(library: Library, services: Services) -> None:
    starter = services.settings.starter
    digests = Digests(services.catalog.index, starter)
    assert library.model("starter").sha256 == ""
    found = digests.sha256(starter)
    assert library.model("starter").sha256 == library.models()[0].sha256 == found
    digests.run()  # the rest of what is bundled
    noted = (services.settings.home / "hashes.json").stat().st_mtime_ns
    digests.run()
    assert (services.settings.home / "hashes.json").stat().st_mtime_ns == noted
    assert digests.sha256(services.settings.models / "none.safetensors") == ""
    digests.stop()
    assert digests.sha256(write_header(services.settings.models / "mine.safetensors", files.SD1)) == ""


def test_digests_step_aside_for_downloads(library: Library, services: Services) -> None:
    write_header(services.settings.models / "mine.safetensors", files.SD1)
    Digests(services.catalog.index).run(rather=lambda: True)
    assert library.model("mine").sha256 == ""


def test_the_curated_list_is_sound() -> None:
    from diffusion_local.options.limits import Limits

    limits = Limits()
    for each in curated_models():
        assert each.sampler in families.get(each.family).sampling.samplers
        assert not each.id or families.get(each.family).supported
        assert each.source.startswith("https://huggingface.co/")
        assert limits.min_size <= each.width <= limits.max_size
        assert 1 <= each.steps <= limits.max_steps
        assert 0 <= each.guidance <= limits.max_guidance
        assert bool(each.id) == (each.disk_gb > 0) == (each.memory_gb > 0)
        assert each.licence or not each.id
    ids = [each.id for each in curated_models() if each.id]
    assert len(set(ids)) == len(ids) >= 10
