"""Denoisers: which model a transformer or UNet is of, and which other parts of it lie in the same file."""

from diffusion_local import families
from diffusion_local.models import parts, unets
from diffusion_local.models.headers import Header
from diffusion_local.models.parts import Part
from diffusion_local.models.probe import CHECKPOINT, DENOISER, STRANGER, HeldPart, Probe
from diffusion_local.models.unets import Unet
from diffusion_local.models.unsupported import STRANGERS
from diffusion_local.models.weights import SVDQUANT, TensorView, precision_of, quantisation_of, views


def svdquant(header: Header) -> Probe | None:
    """A transformer as nunchaku keeps it, whose names are its own."""
    if quantisation_of(header) != SVDQUANT:
        return None
    told = " ".join(header.metadata.get(key, "") for key in ("model_class", "comfy_config", "config")).lower()
    view = TensorView(header)
    architecture = next((name for word, name in (
        ("qwen", "qwen_image"), ("zimage", "z_image"), ("sana", "sana"), ("sdxl", "sdxl"), ("flux", "flux_dev"),
    ) if word in told), "")  # fmt: skip
    if not architecture and view.has("txt_norm"):
        architecture = "qwen_image"
    elif architecture in ("", "flux_dev"):
        guided = view.has("guidance_in") or view.has("time_text_embed.guidance_embedder")
        architecture = "flux_dev" if guided else "flux_schnell"
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


def transformer(header: Header) -> Probe | None:
    """A transformer, alone or with other parts; also one of a model that is none of ours."""
    found: list[tuple[int, int, TensorView, str, str]] = []
    for at, view in enumerate(views(header)):
        ours = families.of_denoiser(view.names, view.shape)
        if ours:
            found.append((ours[1].specificity, -at, view, ours[0], ours[1].naming))
        for stranger in STRANGERS:
            for sign in stranger.signs:
                if sign.matches(view.names, view.shape):
                    found.append((sign.specificity, -at, view, "", stranger.title))
    if not found:
        return None
    _, _, view, architecture, naming = max(found, key=lambda each: each[:2])
    if not architecture:
        stranger = next(each for each in STRANGERS if each.title == naming)
        return Probe(STRANGER, id=stranger.title, title=stranger.title, base=stranger.makes)
    return whole(header, view, architecture, naming)


def whole(header: Header, view: TensorView, architecture: str, naming: str, **more: object) -> Probe:
    """A denoiser with what else of its model the file holds."""
    quantisation = quantisation_of(header, view.tensors)
    precision = precision_of(view.tensors, quantisation)
    held = (HeldPart(DENOISER, view.prefix, precision, quantisation), *companions(header, view))
    needed = families.ARCHITECTURES[architecture].parts
    there = {each.id for each in held}
    missing = tuple(
        each
        for each in needed
        if each not in there and parts.LATENTS.get(each, each) not in there and not beside(header, architecture, each)
    )
    alone = len(held) == 1 and missing == needed
    return Probe(
        DENOISER if alone else CHECKPOINT,
        architecture=architecture,
        naming=naming,
        precision=precision,
        quantisation=quantisation,
        held=held,
        missing=missing,
        **more,  # type: ignore[arg-type]
    )


def companions(header: Header, denoiser: TensorView) -> tuple[HeldPart, ...]:
    """Text encoders and VAE beside a denoiser."""
    found: dict[str, HeldPart] = {}
    for anchors, among in ((parts.ANCHORS, parts.TEXT_ENCODERS), (parts.VAE_ANCHORS, parts.VAES)):
        for prefix in parts.prefixes(header, anchors):
            inside = prefix.startswith(denoiser.prefix) if denoiser.prefix else not prefix
            if inside or prefix.startswith("model_ema."):
                continue
            view = TensorView(header, prefix)
            part = parts.best(view, among)
            if part and part.id not in found:
                found[part.id] = held_as(part, view)
    return tuple(found.values())


def beside(header: Header, architecture: str, part: str) -> bool:
    """Whether a part of a UNet's checkpoint is there, of whatever size, by the prefix of its names."""
    if part.startswith("vae_"):
        return any(name.startswith("first_stage_model.") for name in header.tensors)
    return any(
        all(any(name.startswith(prefix) for name in header.tensors) for prefix in group)
        for group in families.ARCHITECTURES[architecture].encoders
    )


def held_as(part: Part, view: TensorView) -> HeldPart:
    quantisation = quantisation_of(view.header, view.tensors)
    return HeldPart(part.id, view.prefix, precision_of(view.tensors, quantisation), quantisation)


def unet(header: Header) -> Probe | None:
    for view in views(header):
        found = unets.read_unet(view)
        if found is None:
            continue
        if found.temporal:
            return Probe(
                STRANGER, id="Stable Video Diffusion", title="Stable Video Diffusion", base="video", unet=found
            )
        architecture = found.architecture or by_encoders(header)
        if not architecture:
            return Probe(DENOISER, unet=found, naming=found.naming)
        tensors = header.tensors
        edm = any(name.startswith(("edm_vpred.", "edm_mean", "edm_std")) for name in tensors)
        prediction = "edm" if edm else prediction_of(header, view, found)
        old = any(name.startswith("cond_stage_model.transformer.embeddings.") for name in tensors)
        return whole(
            header,
            view,
            architecture,
            found.naming,
            unet=found,
            prediction=prediction,
            zero_snr="ztsnr" in tensors,
            old_names=old,
        )
    return None


def by_encoders(header: Header) -> str:
    """The architecture of a UNet of unusual sizes, by the names of its text encoders."""
    groups = [
        (len(group), name)
        for name, each in families.ARCHITECTURES.items()
        for group in each.encoders
        if all(any(key.startswith(prefix) for key in header.tensors) for prefix in group)
    ]
    return max(groups, key=lambda each: each[0], default=(0, ""))[1]


#: The tensor that SD 2's two kinds of training left unlike, and what its numbers spread by in those that predict v.
TELLING, SPREAD = "output_blocks.11.1.transformer_blocks.0.norm1.bias", 0.09


def prediction_of(header: Header, view: TensorView, found: Unet) -> str:
    """How a UNet was trained, as far as the file says."""
    told = header.metadata.get("modelspec.prediction_type", "").lower()
    if "v_pred" in header.tensors or told.startswith("v"):
        return "v_prediction"
    if told.startswith("eps"):
        return "epsilon"
    if found.architecture != "sd2":
        return ""
    if found.channels != 4:
        return "epsilon"
    numbers = header.numbers(view.prefix + TELLING)
    if numbers and any(numbers):
        mean = sum(numbers) / len(numbers)
        spread = (sum((each - mean) ** 2 for each in numbers) / len(numbers)) ** 0.5
        return "v_prediction" if spread > SPREAD else "epsilon"
    name = header.path.stem.lower() if header.path else ""
    small = any(word in name for word in ("512", "turbo", "base", "eps"))
    return "epsilon" if small and "768" not in name else "v_prediction"
