"""Identifies the denoiser in a file (transformer or UNet), its model, and the other parts in the same file."""

from collections.abc import Iterator

from diffusion_local import families
from diffusion_local.families.sign import Sign, measure
from diffusion_local.models import parts, probe
from diffusion_local.models.headers import Header
from diffusion_local.models.known_layers import closest_model, differences, exact_model
from diffusion_local.models.probe import CHECKPOINT, DENOISER, STRANGER, HeldPart, Probe, Unet
from diffusion_local.models.unsupported import FOREIGN_MODELS, Foreign
from diffusion_local.models.weights import (
    SVDQUANT,
    TensorView,
    is_aid,
    numbers_in,
    precision_of,
    quantisation_of,
    size_of,
    views,
)


def detect_svdquant(header: Header) -> Probe | None:
    """A transformer quantised by nunchaku, which uses its own tensor names."""
    if quantisation_of(header) != SVDQUANT:
        return None
    notes = " ".join(header.metadata.get(key, "") for key in ("model_class", "comfy_config", "config")).lower()
    view = TensorView(header)
    architecture = next((name for word, name in (
        ("qwen", "qwen_image"), ("zimage", "z_image"), ("sana", "sana"), ("sdxl", "sdxl"), ("flux", "flux_dev"),
    ) if word in notes), "")  # fmt: skip
    signs = (
        ("txt_norm", "qwen_image"), ("transformer_blocks.0.img_mod.1", "qwen_image"), ("noise_refiner.0", "z_image"),
        ("down_blocks.1.attentions", "sdxl"), ("caption_norm", "sana"), ("guidance_in", "flux_dev"),
        ("time_text_embed.guidance_embedder", "flux_dev"), ("vector_in", "flux_schnell"),
        ("time_text_embed", "flux_schnell"),
    )  # fmt: skip
    if architecture in ("", "flux_dev"):
        architecture = next((name for sign, name in signs if view.has(sign)), "flux")
    precision = precision_of(header.tensors, SVDQUANT)
    return Probe(
        DENOISER,
        architecture=architecture,
        naming="nunchaku",
        precision=precision,
        quantisation=SVDQUANT,
        held=(HeldPart(DENOISER, "", precision, SVDQUANT),),
        missing=families.ARCHITECTURES[architecture].parts,
    )


def detect_similar(header: Header) -> Probe | None:
    """Detect an unsupported model by the names of its tensors."""
    for view in views(header):
        found = closest_model(name for name in view.tensors if not is_aid(name))
        if found and found.makes:
            return Probe(STRANGER, id=found.model, title=found.model, base=found.makes)
    return None


def detect_transformer(header: Header) -> Probe | None:
    """Detect a transformer, alone or with other parts, also of unsupported models."""
    matches: list[tuple[int, int, TensorView, str | Foreign, Sign]] = []
    for at, view in enumerate(views(header)):
        supported = families.of_denoiser(view.names, view.shape)
        if supported:
            matches.append((supported[1].specificity, -at, view, *supported))
        for stranger in FOREIGN_MODELS:
            for sign in stranger.signs:
                if sign.matches(view.names, view.shape):
                    matches.append((sign.specificity, -at, view, stranger, sign))
    if not matches:
        return None
    _, _, view, what, sign = max(matches, key=lambda each: each[:2])
    if not isinstance(what, str):
        return Probe(STRANGER, id=what.title, title=what.title, base=what.makes)
    exact = exact_model({name: tensor.shape for name, tensor in view.tensors.items()})
    if exact and exact.makes:
        return Probe(STRANGER, id=exact.model, title=exact.model, base=exact.makes)
    measured = {entry: measure(rule, view.tensors, view.shape) for entry, rule in sign.sizes.items()}
    sizes = tuple((entry, value) for entry, value in measured.items() if value is not None)
    return denoiser_probe(header, view, what, sign.naming, sizes=sizes)


def denoiser_probe(header: Header, view: TensorView, architecture: str, naming: str, **more: object) -> Probe:
    """Probe of a denoiser and the other model parts in the file."""
    quantisation = quantisation_of(header, view.tensors)
    precision = precision_of(view.tensors, quantisation)
    known = families.ARCHITECTURES[architecture]
    needed = known.parts
    beside = bundled_parts(header, view)
    there = {each.id for each in beside}
    unusual = [
        found
        for each in needed
        if each not in there and parts.LATENTS.get(each, each) not in there
        for found in parts_of_unusual_size(header, architecture, each)
    ]
    held = (held_part(DENOISER, view), *beside, *unusual)
    there |= {each.id for each in unusual}
    missing = tuple(each for each in needed if each not in there and parts.LATENTS.get(each, each) not in there)
    alone = len(held) == 1 and missing == needed
    own = {name: tensor.shape for name, tensor in view.tensors.items() if not is_aid(name) and name != probe.GUIDED}
    same = known.adapters if more.get("unet") and known.adapters else architecture  # UNets that take the same LoRAs
    lacking, unknown = differences(same, naming, own if view.prefix or alone else {})
    return Probe(
        DENOISER if alone else CHECKPOINT,
        architecture=architecture,
        naming=naming,
        precision=precision,
        quantisation=quantisation,
        held=held,
        missing=missing,
        lacking=lacking,
        unknown=unknown,
        **more,  # type: ignore[arg-type]
    )


def bundled_parts(header: Header, denoiser: TensorView) -> tuple[HeldPart, ...]:
    """Text encoders and VAE in the same file as a denoiser."""
    held: dict[str, HeldPart] = {}
    for anchors, among in ((parts.ANCHORS, parts.TEXT_ENCODERS), (parts.VAE_ANCHORS, parts.VAES)):
        for prefix in parts.prefixes(header, anchors):
            inside = prefix.startswith(denoiser.prefix) if denoiser.prefix else not prefix
            if inside or prefix.startswith("model_ema."):
                continue
            view = TensorView(header, prefix)
            part = parts.best_match(view, among)
            if part and part.id not in held:
                held[part.id] = held_part(part.id, view)
    return tuple(held.values())


def parts_of_unusual_size(header: Header, architecture: str, part: str) -> Iterator[HeldPart]:
    """A part of a UNet's checkpoint, recognised only by its prefix."""
    known = families.ARCHITECTURES[architecture]
    if part.startswith("vae_"):
        prefixes = ["first_stage_model."]
    else:
        place = [each for each in known.parts if not each.startswith("vae_")].index(part)
        prefixes = [group[place] for group in known.encoders if len(group) > place]
    for prefix in prefixes:
        view = TensorView(header, prefix)
        if view.tensors:
            yield held_part(part, view)
            return


def held_part(part: str, view: TensorView) -> HeldPart:
    quantisation = quantisation_of(view.header, view.tensors)
    precision = precision_of(view.tensors, quantisation)
    return HeldPart(part, view.prefix, precision, quantisation, numbers_in(view.tensors), size_of(view.tensors))


def detect_unet(header: Header) -> Probe | None:
    for view in views(header):
        unet = probe.read_unet(view)
        if unet is None:
            continue
        if unet.temporal:
            stable = any("time_stack" in name or "temporal_transformer_blocks" in name for name in view.tensors)
            title = "Stable Video Diffusion" if stable else "a UNet for video (ModelScope, I2VGen-XL)"
            return Probe(STRANGER, id=title, title=title, base="video", unet=unet)
        architecture = unet.architecture or architecture_by_encoders(header)
        if not architecture:
            return Probe(DENOISER, unet=unet, naming=unet.naming)
        tensors = header.tensors
        if architecture in ("sdxl", "sdxl_instruct"):
            architecture = edm_architecture(header, architecture)
        prediction = marked_prediction(header)
        old = any(name.startswith("cond_stage_model.transformer.embeddings.") for name in tensors)
        return denoiser_probe(
            header,
            view,
            architecture,
            unet.naming,
            unet=unet,
            prediction=prediction or guess_prediction(header, view, unet),
            prediction_guessed=not prediction,
            zero_snr="ztsnr" in tensors,
            old_names=old,
            latents=(header.numbers("edm_mean"), header.numbers("edm_std")) if "edm_mean" in tensors else None,
        )
    return None


def edm_architecture(header: Header, architecture: str) -> str:
    """The architecture of SDXL's shape that was trained with EDM's noise levels, by its marks; else the given one."""
    if "edm_vpred.sigma_max" in header.tensors:
        return "cosxl" if architecture == "sdxl" else "cosxl_edit"
    return "playground25" if "edm_mean" in header.tensors else architecture


def architecture_by_encoders(header: Header) -> str:
    """The architecture of a UNet with unusual sizes, from the names of its text encoders' tensors."""
    groups = [
        (len(group), name)
        for name, each in families.ARCHITECTURES.items()
        for group in each.encoders
        if all(any(key.startswith(prefix) for key in header.tensors) for prefix in group)
    ]
    return max(groups, key=lambda each: each[0], default=(0, ""))[1]


#: A tensor in which SD 2 models with the two prediction types differ, and the least spread of its values in v models.
DECISIVE_BIAS, SPREAD = "output_blocks.11.1.transformer_blocks.0.norm1.bias", 0.09


def marked_prediction(header: Header) -> str:
    """The prediction type stated by a marker tensor or the file's metadata, or ""."""
    prediction = header.metadata.get("modelspec.prediction_type", "").lower()
    if "v_pred" in header.tensors or prediction.startswith("v"):
        return "v_prediction"
    if prediction.startswith("eps"):
        return "epsilon"
    return ""


def guess_prediction(header: Header, view: TensorView, unet: Unet) -> str:
    """Guess the prediction type from a tensor's statistics, else the file name; "" if the architecture has only one."""
    if unet.architecture != "sd2":
        return ""
    if unet.channels != 4:
        return "epsilon"
    numbers = header.numbers(view.prefix + DECISIVE_BIAS)
    if numbers and any(numbers):
        mean = sum(numbers) / len(numbers)
        spread = (sum((each - mean) ** 2 for each in numbers) / len(numbers)) ** 0.5
        return "v_prediction" if spread > SPREAD else "epsilon"
    name = header.path.stem.lower() if header.path else ""
    small = any(word in name for word in ("512", "turbo", "base", "eps"))
    return "epsilon" if small and "768" not in name else "v_prediction"
