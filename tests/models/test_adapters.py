"""LoRAs, VAEs, upscalers and textual inversions are listed with what they fit, told from their headers."""

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as PIL

from diffusion_local.compose import Services
from diffusion_local.errors import InvalidParams
from diffusion_local.models import references
from diffusion_local.models.adapters import MOST_WORDS
from diffusion_local.models.catalog import Catalog
from diffusion_local.options.types import Reference, Use
from diffusion_local.settings import Settings
from tests.models import files
from tests.models.files import write_header
from tests.support import params, refused


@pytest.fixture
def catalog(services: Services) -> Catalog:
    return services.catalog


@pytest.mark.parametrize(
    ("shapes", "metadata", "architecture"),
    [
        (files.LORA, {}, "sd1"),
        (files.LORA_XL, {}, "sdxl"),
        ({"lora_te2_text_model_x.lora_down.weight": (4, 1280)}, {}, "sdxl"),
        ({"transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight": (4, 3072)}, {}, "flux"),
        ({"lora_unet_x.lora_down.weight": (4, 8)}, {"ss_base_model_version": "sd_v2-1"}, "sd2"),
        (
            {"lora_unet_x.lora_down.weight": (4, 8)},
            {"modelspec.architecture": "stable-diffusion-xl-v1-base/lora"},
            "sdxl",
        ),
        ({"lora_unet_x.lora_down.weight": (4, 8)}, {"ss_base_model_version": "sdxl_base_v1-0"}, "sdxl"),
        ({"lora_unet_x.lora_down.weight": (4, 8)}, {"ss_base_model_version": "sd_v1"}, "sd1"),
        ({"lora_unet_x.lora_down.weight": (4, 8)}, {"modelspec.architecture": "stable-diffusion-v2-768-v"}, "sd2"),
        ({"lora_unet_x.lora_down.weight": (4, 8)}, {"modelspec.architecture": "flux-1-dev/lora"}, "flux"),
        ({"lora_unet_x.lora_down.weight": (4, 8)}, {"modelspec.architecture": "stable-diffusion-3-medium"}, "sd3"),
        ({"lora_unet_joint_blocks_0_x.lora_down.weight": (4, 8)}, {}, "sd3"),
        ({"lora_unet_x.lora_down.weight": (4, 8)}, {}, ""),
        ({"unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.lora_A.weight": (4, 1024)}, {}, "sd2"),
    ],
)
def test_a_lora_says_which_models_it_fits(
    catalog: Catalog, settings: Settings, shapes: dict, metadata: dict, architecture: str
) -> None:
    write_header(settings.loras / "style.safetensors", files.completed(shapes), metadata)
    [lora] = catalog.loras()
    assert (lora.name, lora.architecture) == ("style", architecture)
    assert lora.ready or "a model that is not known: layers such as x" in lora.problem


def test_its_words_come_most_frequent_first_and_are_bounded(catalog: Catalog, settings: Settings) -> None:
    tags = {"1_a": {"zebra": 5, "rare": 1}, "2_b": {"zebra": 4, "horse": 8} | {f"tag{n}": 1 for n in range(500)}}
    result = {"ss_tag_frequency": json.dumps(tags), "modelspec.trigger_phrase": "in my style, x"}
    write_header(settings.loras / "style.safetensors", files.LORA, result)
    [lora] = catalog.loras()
    assert lora.words[:4] == ("in my style", "x", "zebra", "horse")
    assert len(lora.words) <= MOST_WORDS
    assert all(len(word) <= 60 for word in lora.words)


@pytest.mark.parametrize("tags", ["not json", "[1]", '{"a": 3}', '{"a": {"b": "x"}}', "[" * 100_000])
def test_strange_tags_are_no_tags(catalog: Catalog, settings: Settings, tags: str) -> None:
    write_header(settings.loras / "style.safetensors", files.LORA, {"ss_tag_frequency": tags})
    [lora] = catalog.loras()
    assert (lora.ready, lora.words) == (True, ())


def test_folders_below_are_part_of_the_name(catalog: Catalog, settings: Settings) -> None:
    write_header(settings.loras / "people/portrait.safetensors", files.LORA)
    assert [lora.name for lora in catalog.loras()] == ["people/portrait"]


def test_each_kind_has_its_folder_and_says_where_a_file_belongs(catalog: Catalog, settings: Settings) -> None:
    for folder, shapes in (("vae", files.VAE), ("upscalers", files.UPSCALER), ("embeddings", files.EMBEDDING)):
        write_header(settings.home / folder / "right.safetensors", shapes)
        write_header(settings.home / folder / "wrong.safetensors", files.LORA)
    for found in (catalog.vaes(), catalog.upscalers(), catalog.embeddings()):
        right, wrong = found
        assert right.ready, right.problem
        assert "It is a LoRA" in wrong.problem
        assert "move it into `loras`" in wrong.problem
    assert catalog.embeddings()[0].architecture == "sd1"


def test_damaged_files_are_listed_with_the_reason(catalog: Catalog, settings: Settings) -> None:
    write_header(settings.upscalers / "cut.safetensors", files.UPSCALER)
    with (settings.upscalers / "cut.safetensors").open("r+b") as file:
        file.truncate(300)
    [cut] = catalog.upscalers()
    assert "cut short" in cut.problem


def test_a_changed_file_is_read_again_and_an_unchanged_one_is_not(
    catalog: Catalog, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    import diffusion_local.models.index as shelf

    reads: list[Path] = []
    read = shelf.read_file
    monkeypatch.setattr(shelf, "read_file", lambda path: reads.append(path) or read(path))
    path = write_header(settings.loras / "style.safetensors", files.LORA)
    assert catalog.loras()[0].architecture == catalog.loras()[0].architecture == "sd1"
    assert len(reads) == 1
    write_header(path, files.LORA_XL)
    assert catalog.loras()[0].architecture == "sdxl"
    assert len(reads) == 2


def test_a_width_means_another_architecture_in_a_lora_than_in_an_embedding(
    catalog: Catalog, settings: Settings
) -> None:
    """The refiner's cross attention reads CLIP-G's 1280 alone; an embedding as wide is one of SDXL."""
    refiner = {name: (shape[0], 1280) if "down" in name else shape for name, shape in files.LORA.items()}
    write_header(settings.loras / "refined.safetensors", refiner)
    write_header(settings.embeddings / "wide.safetensors", {"emb_params": (4, 1280)})
    assert [each.architecture for each in catalog.loras()] == ["sdxl_refiner"]
    assert [each.architecture for each in catalog.embeddings()] == ["sdxl"]


def transformer_model(settings: Settings, name: str, pipeline: str, config: dict) -> None:
    folder = settings.models / name
    write_header(folder / "transformer/diffusion_pytorch_model.safetensors", {"x": (2, 2)})
    (folder / "transformer/config.json").write_text(json.dumps(config))
    (folder / "model_index.json").write_text(json.dumps({"_class_name": pipeline}))


@pytest.mark.parametrize("lost", ["lora_down", "lora_up"])
def test_a_lora_that_lacks_a_matrix_is_refused_by_name(catalog: Catalog, settings: Settings, lost: str) -> None:
    """Loaders fill in what is missing with whatever is in memory."""
    other = {name.replace("_to_k", "_to_v"): shape for name, shape in files.LORA.items() if lost not in name}
    write_header(settings.loras / "style.safetensors", files.LORA | other)
    [lora] = catalog.loras()
    assert not lora.ready
    assert "attn2_to_v has only one of its two matrices: the file is damaged" in lora.problem


def test_a_lora_of_flux_fits_both_of_its_models(catalog: Catalog, settings: Settings) -> None:
    blocks = {"transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight": (4, 3072)}
    write_header(settings.loras / "style.safetensors", files.completed(blocks))
    write_header(settings.loras / "old.safetensors", files.LORA)
    for name, guided in (("dev", True), ("schnell", False)):
        transformer_model(settings, name, "FluxPipeline", {"guidance_embeds": guided})
        assert catalog.get(name).architecture == f"flux_{name}"
        options = {"seed": 1, "model": name, "loras": ["style"]}
        assert [lora.name for lora in catalog.complete("x", options).loras] == ["style"]
        with pytest.raises(InvalidParams, match="loras: cannot be 'old': it is made for SD 1, not FLUX"):
            catalog.complete("x", options | {"loras": ["old"]})


def test_a_model_that_takes_no_loras_says_so_before_the_job_waits(catalog: Catalog, settings: Settings) -> None:
    write_header(settings.loras / "style.safetensors", {"lora_unet_x.lora_down.weight": (4, 8)})
    transformer_model(settings, "mine", "PixArtSigmaPipeline", {})
    with pytest.raises(InvalidParams, match="loras: must be left out: mine does not support LoRAs"):
        catalog.complete("x", {"seed": 1, "model": "mine", "loras": ["style"]})


def test_what_other_programs_noted_beside_a_file_is_told_and_read_again(catalog: Catalog, settings: Settings) -> None:
    write_header(settings.loras / "ink.safetensors", files.LORA, {"ss_tag_frequency": '{"set": {"paper": 3}}'})
    assert catalog.loras()[0].words == ("paper",)
    info = {"trainedWords": ["inkstyle, black ink", "brush  stroke"], "model": {"name": "Ink Wash"}, "images": []}
    (settings.loras / "ink.civitai.info").write_text(json.dumps(info))
    assert catalog.loras()[0].words == ("inkstyle", "black ink", "brush stroke", "paper")
    (settings.loras / "ink.json").write_text(json.dumps({"activation text": "my ink", "notes": "at 0.7"}))
    ink = catalog.loras()[0]
    assert ink.words == ("my ink", "inkstyle", "black ink", "brush stroke", "paper")
    assert (ink.title, ink.about) == ("Ink Wash", "at 0.7")


@pytest.mark.parametrize(
    "content", ["[]", "{", '{"activation text": 7, "trainedWords": {"a": 1}, "model": []}', "[" * 9999]
)
def test_strange_notes_beside_a_file_say_nothing(catalog: Catalog, settings: Settings, content: str) -> None:
    write_header(settings.loras / "ink.safetensors", files.LORA)
    for suffix in (".json", ".civitai.info"):
        (settings.loras / f"ink{suffix}").write_text(content)
    ink = catalog.loras()[0]
    assert (ink.words, ink.title, ink.about, ink.ready) == ((), "", "", True)


@pytest.mark.parametrize(
    ("missing", "model", "reference", "words"),
    [
        ("ip_adapters", "starter", {"use": "style"}, "needs an IP-Adapter for starter"),
        ("clip_vision", "starter", {"use": "face"}, "needs the image encoder of sample"),
        ("", "starter", {"use": "style", "adapter": "other"}, "names a file that does not exist"),
        ("", "starter", {"use": "style", "adapter": "faceid"}, "face recognition network"),
        ("", "starter", {"use": "style", "adapter": "for_sdxl"}, "made for SDXL"),
        ("", "starter", {}, "does not read reference pictures"),
    ],
)
def test_a_reference_for_an_ip_adapter_is_refused_by_its_field(
    services: Services, missing: str, model: str, reference: dict[str, Any], words: str
) -> None:
    settings = services.settings
    for name, header in {
        "sample": files.IP_ADAPTER,
        "faceid": files.IP_ADAPTER | {"image_proj.proj.2.weight": (8, 512)},
        "for_sdxl": files.IP_ADAPTER | {"ip_adapter.1.to_k_ip.weight": (64, 2048)},
    }.items():
        write_header(settings.ip_adapters / f"{name}.safetensors", header)
    write_header(settings.clip_vision / "encoder" / "model.safetensors", files.CLIP_VISION)
    (settings.clip_vision / "encoder" / "config.json").write_text("{}")
    if missing:
        shutil.rmtree(getattr(settings, missing))
    with pytest.raises(InvalidParams, match=words) as refused:
        services.studio.submit("a cat", model=model, references=[{"image": a_source(services)} | reference])
    assert refused.value.field == ("references[0].adapter" if reference else "references")


def test_the_adapter_of_a_reference_is_chosen_by_its_use(services: Services) -> None:
    for name in ("a-face", "b-plain"):
        write_header(services.settings.ip_adapters / f"{name}.safetensors", files.IP_ADAPTER)
    write_header(services.settings.clip_vision / "encoder.safetensors", files.CLIP_VISION)
    source = a_source(services)
    references = [{"image": source, "use": use} for use in ("style", "face")]
    job = services.studio.submit("a cat", references=references).job_ids[0]
    assert [each.adapter for each in services.studio.job(job).params.references] == ["b-plain", "a-face"]


def a_source(services: Services) -> str:
    file = io.BytesIO()
    PIL.new("RGB", (128, 128), "red").save(file, "PNG")
    return services.studio.sources.add(file.getvalue()).id


def test_words_of_embeddings_are_checked_in_every_prompt(catalog: Catalog, settings: Settings) -> None:
    write_header(settings.embeddings / "wide.safetensors", {"emb_params": (4, 1280)})
    (settings.preprocessors / "detector").mkdir(parents=True)
    (settings.preprocessors / "detector/config.json").touch()
    calls = ({"negative": "a wide sky"}, {"regions": ["a wide sky"]}, {"details": ["eye", "face:prompt=a wide smile"]})
    for options, field in zip(calls, ("negative", "regions[0].prompt", "details[1].prompt"), strict=True):
        with refused(InvalidParams, "file_word_of_other", field):
            catalog.complete("x", {"seed": 1, **options})


@pytest.mark.parametrize("architecture", ["sd1_instruct", "sdxl_instruct", "cosxl_edit"])
def test_models_that_change_a_picture_by_an_instruction_take_no_ip_adapter(
    services: Services, architecture: str
) -> None:
    """diffusers' pipelines for them either have none, or lose the embeddings."""
    [starter] = [each for each in services.catalog.all() if each.id == "starter"]
    family = "sd" if architecture.startswith("sd1") else "sdxl"
    model = replace(starter, architecture=architecture, family=family)
    style = params(references=(Reference("a" * 64, Use.STYLE, adapter="sample"),))
    with pytest.raises(InvalidParams, match="cannot be used for style or faces") as refused:
        references.check_adapters(style, model, [], [])
    assert refused.value.field == "references[0].use"
    assert Use.STYLE not in references.uses_of(model, [], [])
