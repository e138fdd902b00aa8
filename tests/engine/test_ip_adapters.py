"""IP-Adapters on tiny models with random weights: as diffusers' own pipelines draw with them."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
import transformers
from PIL import Image as PIL
from safetensors.torch import load_file, save_file

from diffusion_local import families
from diffusion_local.domain import Kind
from diffusion_local.engine import img2img, ip_adapters
from diffusion_local.engine.diffusers_engine import DiffusersEngine
from diffusion_local.engine.inputs import PictureInputs
from diffusion_local.engine.loops import loops_of
from diffusion_local.engine.memory import RungChoice
from diffusion_local.errors import EngineError, ModelUnavailable, Stopped
from diffusion_local.models.catalog import Model, read_folder
from diffusion_local.options.types import Reference, Region, Use
from tests.engine.conftest import Draw
from tests.engine.home import Home
from tests.engine.passes import check_passes
from tests.engine.test_flow_families import difference
from tests.engine.tiny import kolors
from tests.support import PARAMS, first_of, tiers

TEXT, HIDDEN, PROJECTED, TOKENS = 32, 32, 24, 4
JOB = {"model": "tiny", "sampler": "Euler", "steps": 2, "prompt": "a cat", "width": 128, "height": 96, "guidance": 3.0}


@pytest.fixture(scope="module")
def starter(narrow: Model) -> Model:
    return narrow


def unet(**more: Any) -> Any:
    return diffusers.UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(16, 32),
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        attention_head_dim=8,
        cross_attention_dim=TEXT,
        **more,
    )


def pipeline(family: str, starter: Model) -> Any:
    if family == "kolors":
        return kolors(cross=TEXT)
    vocabulary = json.loads((starter.folder / "text_encoder/config.json").read_text())["vocab_size"]
    width = TEXT if family == "sd" else TEXT // 2
    text = transformers.CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        projection_dim=width,
        eos_token_id=vocabulary - 1,
    )
    tokenizer = transformers.CLIPTokenizer.from_pretrained(starter.folder / "tokenizer")
    parts: dict[str, Any] = {
        "vae": diffusers.AutoencoderKL.from_pretrained(starter.folder / "vae"),
        "text_encoder": transformers.CLIPTextModel(text),
        "tokenizer": tokenizer,
        "scheduler": diffusers.EulerDiscreteScheduler(timestep_spacing="leading"),
    }
    if family == "sd":
        more = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
        return diffusers.StableDiffusionPipeline(**parts, **more, unet=unet())
    added = {"addition_embed_type": "text_time", "addition_time_embed_dim": 8}
    parts |= {"text_encoder_2": transformers.CLIPTextModelWithProjection(text), "tokenizer_2": tokenizer}
    return diffusers.StableDiffusionXLPipeline(
        **parts, unet=unet(**added, projection_class_embeddings_input_dim=width + 6 * 8), add_watermarker=False
    )


@pytest.fixture(scope="module", params=tiers(["sd", "sdxl", "kolors"], first=["sdxl"]))
def tiny(request: pytest.FixtureRequest, starter: Model, tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pipeline(request.param, starter).save_pretrained(folder)
    model = read_folder(folder, "tiny", "Tiny")
    assert (model.problem, model.family) == ("", request.param)
    return model


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape) * 0.5


def attention(folder: Path, width: int = TEXT) -> dict[str, torch.Tensor]:
    """Keys and values of each cross attention, numbered as in published files."""
    config = json.loads((folder / "unet/config.json").read_text())
    config.pop("quantization_config", None)
    net = diffusers.UNet2DConditionModel.from_config(config)
    found = {}
    for number, name in enumerate(net.attn_processors):
        if name.endswith("attn2.processor"):
            rows = net.get_submodule(name.removesuffix(".processor")).to_k.weight.shape[0]
            found |= {f"ip_adapter.{number}.{part}_ip.weight": random(rows, width) for part in ("to_k", "to_v")}
    return found


def plain(width: int = TEXT) -> dict[str, torch.Tensor]:
    return {
        "image_proj.proj.weight": random(TOKENS * width, PROJECTED),
        "image_proj.proj.bias": random(TOKENS * width),
        "image_proj.norm.weight": torch.ones(width),
        "image_proj.norm.bias": torch.zeros(width),
    }


def plus(width: int = 64) -> dict[str, torch.Tensor]:
    layer = {
        "0.norm1.weight": torch.ones(width), "0.norm1.bias": random(width), "0.norm2.weight": torch.ones(width),
        "0.norm2.bias": random(width), "0.to_q.weight": random(64, width), "0.to_kv.weight": random(128, width),
        "0.to_out.weight": random(width, 64), "1.0.weight": torch.ones(width), "1.0.bias": random(width),
        "1.1.weight": random(width * 4, width), "1.3.weight": random(width, width * 4),
    }  # fmt: skip
    whole = {
        "latents": random(1, TOKENS, width), "proj_in.weight": random(width, HIDDEN), "proj_in.bias": random(width),
        "proj_out.weight": random(TEXT, width), "proj_out.bias": random(TEXT), "norm_out.weight": torch.ones(TEXT),
        "norm_out.bias": random(TEXT),
    }  # fmt: skip
    layers = {f"layers.{number}.{name}": tensor.clone() for number in range(4) for name, tensor in layer.items()}
    return {f"image_proj.{name}": tensor for name, tensor in (whole | layers).items()}


def full() -> dict[str, torch.Tensor]:
    return {
        "image_proj.proj.0.weight": random(HIDDEN, HIDDEN), "image_proj.proj.0.bias": random(HIDDEN),
        "image_proj.proj.2.weight": random(TEXT, HIDDEN), "image_proj.proj.2.bias": random(TEXT),
        "image_proj.proj.3.weight": torch.ones(TEXT), "image_proj.proj.3.bias": random(TEXT),
    }  # fmt: skip


def write_encoder(folder: Path) -> None:
    """An image encoder for the adapters above."""
    config = transformers.CLIPVisionConfig(
        hidden_size=HIDDEN, intermediate_size=48, num_hidden_layers=2, num_attention_heads=16, image_size=32,
        patch_size=8, projection_dim=PROJECTED, hidden_act="gelu",
    )  # fmt: skip
    transformers.CLIPVisionModelWithProjection(config).save_pretrained(folder)


@pytest.fixture(scope="module")
def adapters(tiny: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with IP-Adapters, which are recognised by their headers, and one with an image encoder."""
    folder = tmp_path_factory.mktemp("adapters")
    (folder / "ip_adapters").mkdir()
    with torch.random.fork_rng():
        torch.manual_seed(1)
        shared = attention(tiny.folder)
        for name, made in (("ip-adapter", plain()), ("ip-adapter-plus", plus()), ("ip-adapter-full-face", full())):
            save_file(
                {key: each.contiguous() for key, each in (made | shared).items()},
                folder / "ip_adapters" / f"{name}.safetensors",
            )
        nested = {"image_proj": {}, "ip_adapter": {}}  # type: ignore[var-annotated]
        for key, each in (plain() | shared).items():
            part, _, rest = key.partition(".")
            nested[part][rest] = each
        torch.save(nested, folder / "ip_adapters/old.bin")
        write_encoder(folder / "clip_vision/image_encoder")
    return folder


@pytest.fixture
def home(at_home: Home, adapters: Path) -> Home:
    """With copies of the adapters and the encoder, which a test may damage."""
    shutil.copytree(adapters / "ip_adapters", at_home.settings.ip_adapters, dirs_exist_ok=True)
    shutil.copytree(adapters / "clip_vision", at_home.settings.clip_vision, dirs_exist_ok=True)
    return at_home


@pytest.fixture
def draw(diffusers_engine: DiffusersEngine, tiny: Model, home: Home, monkeypatch: pytest.MonkeyPatch) -> Draw:
    monkeypatch.setattr(diffusers_engine, "_materials", PictureInputs(home.settings, home.services.files.open_source))
    diffusers_engine.unload()
    diffusers_engine.load(tiny)
    return Draw(diffusers_engine)


def state_of(path: Path) -> dict[str, dict[str, torch.Tensor]]:
    found: dict[str, dict[str, torch.Tensor]] = {"image_proj": {}, "ip_adapter": {}}
    for key, tensor in load_file(path).items():
        part, _, rest = key.partition(".")
        found[part][rest] = tensor
    return found


def theirs(tiny: Model, home: Home, names: list[str], pictures: list[Any], scales: list[float], **more: Any) -> Any:
    """diffusers' own picture."""
    kinds = {"sd": {"safety_checker": None}, "sdxl": {"add_watermarker": False}, "kolors": {}}
    encoder = transformers.CLIPVisionModelWithProjection.from_pretrained(home.settings.clip_vision / "image_encoder")
    pipe = diffusers.DiffusionPipeline.from_pretrained(tiny.folder, image_encoder=encoder, **kinds[tiny.family])
    pipe.set_progress_bar_config(disable=True)
    states = [state_of(home.settings.ip_adapters / f"{name}.safetensors") for name in names]
    pipe.load_ip_adapter(states, subfolder="", weight_name=[""] * len(names), image_encoder_folder=None)
    pipe.set_ip_adapter_scale(scales)
    return pipe(
        "a cat",
        width=128,
        height=96,
        num_inference_steps=2,
        guidance_scale=3.0,
        ip_adapter_image=pictures,
        generator=torch.Generator().manual_seed(7),
        **more,
    ).images[0]


@pytest.mark.parametrize("name", first_of(2, ["ip-adapter", "ip-adapter-plus", "ip-adapter-full-face"]))
def test_pixels_are_those_of_diffusers(draw: Draw, tiny: Model, home: Home, name: str) -> None:
    reference = Reference(home.source, use=Use.STYLE, weight=0.7, adapter=name)
    made = draw(**JOB, references=(reference,))
    assert difference(made.image, theirs(tiny, home, [name], [home.circle], [0.7])) <= 1
    assert set(made.facts["ip_adapter_hashes"]) == {name}
    without = draw(**JOB).image
    assert difference(made.image, without) > 1
    assert draw(**JOB, references=(reference,)).image.tobytes() == made.image.tobytes()


def test_several_pictures_and_adapters_with_masks(draw: Draw, tiny: Model, home: Home) -> None:
    grey = PIL.linear_gradient("L").convert("RGB")
    second = home.add(grey)
    one = Reference(home.source, use=Use.STYLE, weight=0.7, adapter="ip-adapter", mask=home.mask)
    other = Reference(second, use=Use.FACE, weight=0.4, adapter="ip-adapter-plus")
    made = draw(**JOB, references=(one, other)).image
    from diffusers.image_processor import IPAdapterMaskProcessor

    wide = home.left.resize((128, 128)).crop((0, 16, 128, 112))
    masks = [IPAdapterMaskProcessor().preprocess(each, 96, 128) for each in (wide, PIL.new("L", (128, 96), 255))]
    masks = [each.reshape(1, 1, 96, 128) for each in masks]
    more = {"cross_attention_kwargs": {"ip_adapter_masks": masks}}
    expected = theirs(tiny, home, ["ip-adapter", "ip-adapter-plus"], [home.circle, grey], [0.7, 0.4], **more)
    assert difference(made, expected) <= 1


def test_pictures_at_one_strength_are_read_by_one_adapter(draw: Draw, tiny: Model, home: Home) -> None:
    grey = PIL.linear_gradient("L").convert("RGB")
    references = tuple(
        Reference(each, use=Use.STYLE, weight=0.5, adapter="ip-adapter") for each in (home.source, home.add(grey))
    )
    made = draw(**JOB, references=references).image
    assert draw.engine._loaded.ip_adapters == ("ip-adapter",)  # type: ignore[attr-defined]
    assert difference(made, theirs(tiny, home, ["ip-adapter"], [[home.circle, grey]], [0.5])) <= 1


def test_the_model_is_as_it_was_without_them(draw: Draw, home: Home) -> None:
    before = draw(**JOB).image
    reference = Reference(home.source, use=Use.STYLE, adapter="ip-adapter-plus")
    assert difference(draw(**JOB, references=(reference,)).image, before) > 1
    assert draw(**JOB).image.tobytes() == before.tobytes()


def test_it_is_read_on_the_rung_that_slices_attention_too(
    draw: Draw, diffusers_engine: DiffusersEngine, tiny: Model, home: Home
) -> None:
    """diffusers slices attention by replacing the layers that IP-Adapters replace."""
    references = (Reference(home.source, use=Use.STYLE, weight=0.7, adapter="ip-adapter"),)
    expected, plain = draw(**JOB, references=references).image, draw(**JOB).image
    for _ in range(2):
        diffusers_engine.load(tiny, RungChoice("attention_slicing"))
        assert difference(draw(**JOB).image, plain) <= 1
        assert any("Sliced" in type(each).__name__ for each in denoiser_of(draw).attn_processors.values())
        assert difference(draw(**JOB, references=references).image, expected) <= 1


def denoiser_of(draw: Draw) -> Any:
    return draw.engine._loaded.pipe.unet  # type: ignore[attr-defined]


def test_no_strength_is_no_adapter(draw: Draw, home: Home) -> None:
    reference = Reference(home.source, use=Use.STYLE, weight=0.0, adapter="ip-adapter")
    assert difference(draw(**JOB, references=(reference,)).image, draw(**JOB).image) <= 1


def test_pictures_of_a_pass_share_the_adapters(draw: Draw, home: Home) -> None:
    reference = Reference(home.source, use=Use.STYLE, adapter="ip-adapter")
    check_passes(draw.engine, **JOB | {"steps": 3, "references": (reference,)})


def test_a_pickle_is_read_without_running_it(draw: Draw, home: Home) -> None:
    reference = Reference(home.source, use=Use.STYLE, adapter="old")
    assert difference(draw(**JOB, references=(reference,)).image, draw(**JOB).image) > 1


def test_inpainting_takes_them_too(draw: Draw, home: Home) -> None:
    reference = Reference(home.source, use=Use.STYLE, adapter="ip-adapter")
    wish = {"kind": Kind.INPAINT, "source": home.source, "mask": home.mask, "strength": 0.8, "height": 128}
    made = draw(**JOB | wish, references=(reference,)).image
    kept = (64, 0, 128, 128)
    assert made.crop(kept).tobytes() == home.circle.crop(kept).tobytes()


def test_an_encoder_in_a_file_of_its_own_is_read_by_its_tensors(draw: Draw, home: Home) -> None:
    reference = Reference(home.source, use=Use.STYLE, adapter="ip-adapter-plus")
    before = draw(**JOB, references=(reference,)).image
    folder = home.settings.clip_vision / "image_encoder"
    (folder / "model.safetensors").rename(home.settings.clip_vision / "CLIP-ViT-tiny.safetensors")
    (folder / "config.json").unlink()
    draw.engine._loaded.embeddings.clear()  # type: ignore[attr-defined]
    assert draw(**JOB, references=(reference,)).image.tobytes() == before.tobytes()


def test_an_adapter_of_another_model_ends_the_job_by_its_name(draw: Draw, home: Home) -> None:
    shared = {f"ip_adapter.{number}.{part}_ip.weight": random(8, 8) for number in (1, 3) for part in ("to_k", "to_v")}
    save_file(plain() | shared, home.settings.ip_adapters / "foreign.safetensors")
    before = draw(**JOB).image
    with pytest.raises(ModelUnavailable, match="foreign"):
        draw(**JOB, references=(Reference(home.source, use=Use.STYLE, adapter="foreign"),))
    assert draw(**JOB).image.tobytes() == before.tobytes()


def test_regions_have_prompts_of_their_own_beside_it(draw: Draw, tiny: Model, home: Home) -> None:
    if not families.get(tiny.family).regions:
        pytest.skip("the family has none")
    references = (Reference(home.source, use=Use.STYLE, adapter="ip-adapter", mask=home.mask),)
    plain = draw(**JOB, references=references).image
    same = draw(**JOB | {"prompt": "a boat"}, references=references, regions=(Region("a cat", weight=1.0),)).image
    if "xl" not in draw.engine._loaded.model.family:  # type: ignore[attr-defined]  # whose pooled text is the picture's
        assert difference(same, plain) <= 1
    halves = draw(**JOB, references=references, regions=(Region("a red boat", width=0.5, weight=1.0),)).image
    assert difference(halves, plain) > 0


class TestHostile:
    """Pictures and files that nobody should send, and ends in the middle."""

    @pytest.mark.parametrize(
        ("mode", "size"),
        first_of(
            1,
            [
                ("LA", (1, 1)),
                ("RGBA", (1, 400)),
                ("RGB", (2000, 3)),
                ("LA", (50, 50)),
                ("RGB", (1500, 1500)),
                ("P", (7, 5)),
            ],
        ),
    )
    def test_any_picture_can_be_read(self, draw: Draw, home: Home, mode: str, size: tuple[int, int]) -> None:
        found = home.add(PIL.new(mode, size))
        made = draw(**JOB, references=(Reference(found, use=Use.STYLE, adapter="ip-adapter-plus", mask=found),))
        assert made.image.size == (128, 96)

    def test_transparent_parts_are_white(self, draw: Draw, home: Home) -> None:
        clear, white = home.add(PIL.new("RGBA", (40, 40))), home.add(PIL.new("RGB", (40, 40), "white"))
        one, other = (
            draw(**JOB, references=(Reference(each, use=Use.STYLE, adapter="ip-adapter"),)).image
            for each in (clear, white)
        )
        assert one.tobytes() == other.tobytes()

    def test_without_the_image_encoder_the_job_ends_and_the_model_stays(self, draw: Draw, home: Home) -> None:
        before = draw(**JOB).image
        shutil.rmtree(home.settings.clip_vision / "image_encoder")
        with pytest.raises(ModelUnavailable, match=f"{PROJECTED}"):
            draw(**JOB, references=(Reference(home.source, use=Use.STYLE, adapter="ip-adapter"),))
        assert draw(**JOB).image.tobytes() == before.tobytes()

    def test_an_encoder_whose_configuration_lies_ends_the_job(self, draw: Draw, home: Home) -> None:
        before = draw(**JOB).image
        path = home.settings.clip_vision / "image_encoder/config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"hidden_size": 48, "num_attention_heads": 6}))
        with pytest.raises(EngineError):
            draw(**JOB, references=(Reference(home.source, use=Use.STYLE, adapter="ip-adapter"),))
        assert draw(**JOB).image.tobytes() == before.tobytes()

    def test_half_an_adapter_ends_the_job_by_its_name(self, draw: Draw, home: Home) -> None:
        before = draw(**JOB).image
        path = home.settings.ip_adapters / "ip-adapter-plus.safetensors"
        tensors = {key: each for key, each in load_file(path).items() if ".layers.2." not in key}
        save_file(tensors, path)
        with pytest.raises(ModelUnavailable, match="ip-adapter-plus"):
            draw(**JOB, references=(Reference(home.source, use=Use.STYLE, adapter="ip-adapter-plus"),))
        assert draw(**JOB).image.tobytes() == before.tobytes()

    def test_a_cancel_in_the_middle_leaves_the_model_as_it_was(self, draw: Draw, home: Home) -> None:
        before = draw(**JOB).image
        references = (Reference(home.source, use=Use.STYLE, adapter="ip-adapter"),)
        whole = draw(**JOB, references=references).image

        def stop(step: int, preview: Any) -> None:
            raise Stopped("cancel")

        with pytest.raises(Stopped):
            draw.engine.generate(replace(PARAMS, **JOB, references=references), stop)
        assert draw(**JOB).image.tobytes() == before.tobytes()
        assert draw(**JOB, references=references).image.tobytes() == whole.tobytes()

    def test_masks_follow_the_tiles_of_a_second_pass(self, draw: Draw, home: Home) -> None:
        seen: list[list[float]] = []
        own = ip_adapters.AdapterInputs.arguments

        def noted(*given: Any) -> dict[str, Any]:
            made = own(*given)
            masks = made["cross_attention_kwargs"]["ip_adapter_masks"]
            seen.append([float(masks[0][..., column].mean()) for column in (0, -1)])
            return made

        reference = Reference(home.source, use=Use.STYLE, adapter="ip-adapter", mask=home.mask)
        tiles = {"hires_scale": 2.0, "hires_tile": 128, "hires_upscaler": "Lanczos", "hires_steps": 1}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ip_adapters.AdapterInputs, "arguments", noted)
            draw(**JOB | {"width": 64, "height": 64}, **tiles, references=(reference,))
            assert seen == [[1, 0], [1, 0]]  # one tile is the whole picture
            seen.clear()
            draw(**JOB | {"height": 64}, **tiles, references=(reference,))
        assert seen == [[1, 0], [1, 1], [1, 0], [0, 0]]  # the whole picture, and tiles from left to right

    def test_a_mask_follows_the_area_that_is_repainted(self, draw: Draw, home: Home) -> None:
        reference = Reference(home.source, use=Use.STYLE, adapter="ip-adapter", mask=home.mask)
        whole = img2img.Area(home.circle, home.left, (64, 0, 128, 128))
        canvas = img2img.SourceCanvas(home.circle, area=whole)
        loop = loops_of(replace(PARAMS, **JOB, references=(reference,)))[0]
        assert ip_adapters.mask_of_loop(home.left, loop, canvas).getextrema()[0] == 0
        assert ip_adapters.mask_of_loop(home.left, loop, canvas).getpixel((100, 50)) == 0
        left = img2img.SourceCanvas(home.circle, area=replace(whole, box=(0, 0, 64, 128)))
        assert ip_adapters.mask_of_loop(home.left, loop, left).getextrema() == (255, 255)
