"""Identifies a weight file from its header."""

from dataclasses import replace
from pathlib import Path

from diffusion_local import families
from diffusion_local.models import control_inputs, denoisers, parts
from diffusion_local.models.file_formats import OpenedFile, open_header
from diffusion_local.models.headers import GGUF, Header
from diffusion_local.models.loras import is_lora, read_lora
from diffusion_local.models.parts import VAE, Part
from diffusion_local.models.probe import (
    ATTACHMENT,
    CHECKPOINT,
    CONTROL,
    DENOISER,
    EMBEDDING,
    IP_ADAPTER,
    LORA,
    UNKNOWN,
    UPSCALER,
    Contents,
    Probe,
)
from diffusion_local.models.unsupported import ATTACHMENTS
from diffusion_local.models.weights import (
    TENSOR_PREFIXES,
    TWINS,
    TensorView,
    numbers_in,
    precision_of,
    quantisation_of,
    views,
)

#: Add-ons with the tensors of others, by (what it looks like, a word of the name, title).
NAMED: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("sd1_instruct", ("iclight", "ic-light", "ic_light"), "IC-Light, which lights a picture anew"),
    (CONTROL, ("instantid", "instant_id", "instant-id"), "the ControlNet of InstantID, which reads faces"),
)
#: Variants with the same tensors but other training: (architecture, words of which the name has one, variant).
NAMED_VARIANTS = (
    ("flux_dev", ("kontext",), "flux_kontext"),
    (
        "qwen_image",
        ("edit_2509", "edit-2509", "edit_2511", "edit-2511", "edit-plus", "edit_plus"),
        "qwen_image_edit_plus",
    ),
    ("qwen_image", ("edit",), "qwen_image_edit"),
    ("longcat_image", ("edit",), "longcat_image_edit"),
)
#: Attachments with which a picture controls the composition.
CONTROL_TITLES = ("controlnet", "t2i_adapter")
#: Kinds of IP-Adapters for UNets by a tensor that only they have, whose last dimension is their input width. ``faceid``
#: reads embeddings of a face recognition network, the others the output of an image encoder: ``plain`` its projected
#: embedding, ``plus`` and ``full`` its hidden states.
IP_ADAPTERS = (
    ("image_proj.perceiver_resampler.proj_in.weight", "faceid"), ("image_proj.proj_in.weight", "plus"),
    ("image_proj.proj.3.weight", "full"), ("image_proj.proj.2.weight", "faceid"), ("image_proj.proj.weight", "plain"),
)  # fmt: skip
#: Keys in files of textual inversions, as written by training programs.
EMBEDDING_KEYS = ("emb_params", "clip_l", "clip_g", "t5xxl", "string_to_param.*", "string_to_param")
#: Ends of tensor names in networks, which textual inversions do not have.
PARAMETER_ENDS = (".weight", ".bias")
#: Width of a token embedding in T5-XXL.
T5_WIDTH = 4096
#: Base of a textual inversion for a model without textual inversions, and widths of such models' text encoders.
OTHER_MODEL, OTHER_WIDTHS = "another model", frozenset((2304, 2560, 3072, 3584, 5120))
#: Titles of controls of special kinds, by modules that only they have.
SPECIAL_CONTROLS = (
    ("lora_controlnet", "a Control-LoRA"),
    ("difference", "a ControlNet stored as a difference from its model"),
    ("down_blocks.0.motion_modules.0", "a SparseCtrl, a ControlNet for video"),
)
#: Input channels of the picture in a transformer's ControlNet; those for inpainting have more.
CONTROL_CHANNELS = 64
#: Module names of published upscaling networks.
UPSCALER_KEYS = (
    ("conv_first", "conv_last"), ("conv_first", "upsample"), ("conv_first", "conv_after_body"), ("model.0",
        "model.1.sub"),
    ("RRDB_trunk", "conv_first"), ("body.0", "body.1", "body.2"), ("sub_mean", "tail"), ("head.0", "tail.0"),
    ("feats.0", "to_img"), ("feats.0",), ("conv_1.sk", "block_1"), ("conv_1.eval_conv",), ("block_1.c1_r",),
    ("residual_layer.0", "input"), ("unet1.conv1", "unet2.conv1"), ("patch_embed", "layers.0.residual_group",
        "upsample"),
    ("layers.0.blocks", "conv_first"), ("to_feat", "to_img"), ("upsampler.0", "to_feat"), ("upsampler", "body"),
    ("conv_first", "layers.0"), ("in_to_dim",), ("in_to_feat",), ("shortcut", "to_img"), ("body.0", "upsampler"),
    ("m_head.0", "m_tail.0"), ("intro", "ending", "encoders.0"), ("patch_embed.proj", "encoder_level1.0"),
    ("initial.cnn", "residual.0"), ("m_head", "m_down1.0"), ("input_proj.proj.0", "encoderlayer_0"),
    ("UFONE.0", "upsample"), ("fea_conv", "B1.body"), ("intro", "ending", "middle_blks.0"),
    ("patch_merge1", "layer1.blocks.0"), ("model.0", "model.2", "model.3.running_mean"), ("HVE_block0", "HVD_block0"),
    ("conv_first", "groups.0"), ("mid_attn.layers.0", "final_res_block"), ("gblocks.0",),
    ("dim_to_in",), ("short_to_dim",), ("gfisr_body_half",), ("shallow", "upsampler"),
)  # fmt: skip


def read_file(path: Path) -> Contents:
    """Read and identify a file. Raises ModelUnavailable."""
    opened = open_header(path)
    header = opened.header
    found = probe_file(path, opened)
    packed = header.container == GGUF  # of these files, only UNets are unpacked
    unpacked = found.unet is not None if packed else quantisation_of(header) != ""
    return Contents(found, header.metadata, header.size, memory_bytes(header, unpacked))


def memory_bytes(header: Header, unpacked: bool = False) -> int:
    """Size of the weights in fp16, without a second (EMA) copy. ``unpacked``: quantised ones are converted too."""
    if unpacked:
        return 2 * numbers_in(header.tensors)
    kept = {name: tensor for name, tensor in header.tensors.items() if not name.startswith(TWINS)}
    return replace(header, tensors=kept).memory_bytes()


def probe_file(path: Path, opened: OpenedFile) -> Probe:
    """``probe``, refined by the file name for models and VAEs that have the same tensors as others."""
    contents = probe(opened)
    names = f"{path.name} {opened.header.metadata.get('modelspec.architecture', '')}".lower()
    for architecture, words, variant in NAMED_VARIANTS:
        if (
            contents.architecture == architecture
            and any(word in names for word in words)
            and contents.kind in (CHECKPOINT, DENOISER)
        ):
            return replace(contents, architecture=variant)
    for like, named, title in NAMED:
        if like in (contents.kind, contents.architecture) and any(word in names for word in named):
            return Probe(ATTACHMENT, id=like, title=title, container=contents.container, precision=contents.precision)
    if contents.kind == VAE and contents.id == parts.TINY:
        return replace(contents, base=base_of_tiny_vae(opened.header, f"{path.parent.name} {path.name}"))
    if contents.kind == VAE and contents.id in ("vae_sd", "vae_16"):
        return replace(contents, base=vae_by_name(contents.id, path.name, opened.header.metadata))
    return contents


def probe(opened: OpenedFile) -> Probe:
    header = opened.header
    contents = (
        denoisers.detect_svdquant(header)
        or detect_attachment(header)
        or detect_lora(header)
        or denoisers.detect_transformer(header)
        or denoisers.detect_unet(header)
        or denoisers.detect_similar(header)
        or detect_part(header)
        or detect_embedding(header)
        or detect_upscaler(header)
        or Probe(UNKNOWN)
    )
    quantisation = contents.quantisation or quantisation_of(header)
    return replace(
        contents,
        container=header.container,
        calls=opened.calls,
        quantisation=quantisation,
        precision=contents.precision or precision_of(header.tensors, quantisation),
    )


def detect_attachment(header: Header) -> Probe | None:
    for view in views(header, (*TENSOR_PREFIXES, "params_ema.", "params.")):
        for each in ATTACHMENTS:
            if any(sign.matches(view.names, view.shape) for sign in each.signs):
                if each.id == "motion_module" and is_lora(header):
                    return None  # a motion LoRA for camera movement
                if each.id in CONTROL_TITLES:
                    form = control_form(view)
                    return Probe(CONTROL, id=form or each.id, title=control_title(view, each.title), base=base_of(view),
                                 naming=form, modes=control_inputs.modes_of(view),
                                 reads_mask=control_inputs.reads_mask(view))  # fmt: skip
                if each.id == "ip_adapter" and (known := ip_adapter(view)):
                    return known
                return Probe(ATTACHMENT, id=each.id, title=each.title, base=base_of(view))
    if lllite := [name for name in header.tensors if name.startswith("lllite_")]:
        base = "sdxl" if any(name.startswith("lllite_unet_") for name in lllite) else ""
        return Probe(CONTROL, id="controlnet", title="a ControlNet (LLLite)", base=base)
    if header.container == GGUF and header.metadata.get("general.architecture") == "clip":
        return Probe(ATTACHMENT, id="mmproj", title="the image encoder of a language model (mmproj)")
    return None


#: Forms of controls that the engine loads ("": not loaded), by modules that only they have, special ones first.
#: ``controlnet_ldm`` has the tensor names of the first ControlNets, the others those of diffusers. Z-Image's original
#: names equal those of diffusers.
CONTROL_FORMS = (
    ("", ("lora_controlnet",)), ("", ("difference",)), ("", ("down_blocks.0.motion_modules.0",)),
    ("controlnet_union", ("task_embedding", "control_add_embedding", "controlnet_down_blocks.0")),
    ("controlnet", ("controlnet_cond_embedding", "controlnet_down_blocks.0")),
    ("controlnet_ldm", ("control_model.input_hint_block.0", "control_model.zero_convs.0.0")),
    ("controlnet_ldm", ("input_hint_block.0", "zero_convs.0.0")),
    ("", ("encoder_hid_proj", "controlnet_cond_embedding")),
    ("", ("controlnet_blocks.0", "transformer_blocks.0.attn.qkv")),
    ("controlnet_flux", ("controlnet_x_embedder", "single_transformer_blocks.0", "controlnet_blocks.0")),
    ("controlnet_flux", ("controlnet_x_embedder", "context_embedder", "transformer_blocks.0", "controlnet_blocks.0")),
    ("controlnet_qwen", ("controlnet_x_embedder", "transformer_blocks.0.img_mod", "controlnet_blocks.0")),
    ("controlnet_sd3", ("pos_embed_input", "transformer_blocks.0", "controlnet_blocks.0")),
    ("controlnet_z_image", ("control_layers.0", "control_all_x_embedder")),
    ("t2i_adapter", ("adapter.conv_in", "adapter.body.0.resnets")),
)  # fmt: skip


#: Tensors that read a control picture in pixels, and the channels that it has.
PICTURE_ENTRANCES = (
    "controlnet_cond_embedding.conv_in.weight", "input_hint_block.0.weight", "control_model.input_hint_block.0.weight",
)  # fmt: skip
PICTURE_CHANNELS = 3


def control_form(view: TensorView) -> str:
    """The form in which the engine loads a control; "" if it cannot load it."""
    if any((shape := view.shape(name)) and shape[1] != PICTURE_CHANNELS for name in PICTURE_ENTRANCES):
        return ""
    form = next((form for form, names in CONTROL_FORMS if view.has(*names)), "")
    own, read = view.shape("x_embedder.weight"), view.shape("controlnet_x_embedder.weight")
    # of FLUX, for inpainting: diffusers has no such network
    return "" if form == "controlnet_flux" and own and read and own[-1] != read[-1] else form


def control_title(view: TensorView, title: str) -> str:
    """``title``, or a more specific one."""
    entrance = view.shape("controlnet_x_embedder.weight")
    if entrance and not control_form(view) and entrance[-1] > CONTROL_CHANNELS:
        return f"{title} for inpainting"
    return next((special for name, special in SPECIAL_CONTROLS if view.has(name)), title)


#: Width of the face embeddings that an IP-Adapter reads, and width of the latents in one for Kolors.
FACE, WIDTH_OF_KOLORS = 512, 2048


def ip_adapter(view: TensorView) -> Probe | None:
    """Detect an IP-Adapter for a UNet; None for those for transformers.

    In a UNet only each second attention layer reads the picture, so the layers' numbers are odd.
    """
    entrance = view.shape("ip_adapter.1.to_k_ip.weight")
    if entrance is None or view.has("ip_adapter.0.to_k_ip"):
        return None
    for name, kind in IP_ADAPTERS:
        if shape := view.shape(name):
            base = families.BY_TEXT_WIDTH.get(entrance[-1], "")
            latents = view.shape("image_proj.latents")
            if base == "sdxl" and latents and latents[-1] == WIDTH_OF_KOLORS:
                base = "kolors"
            if shape[-1] == FACE:
                kind = "faceid"
            return Probe(IP_ADAPTER, id=kind, title="an IP-Adapter", base=base, widths=(shape[-1],))
    return None


def widths_of(view: TensorView) -> tuple[int, ...]:
    """(projected, hidden) output widths of a CLIP image encoder; empty for other encoders."""
    hidden = view.shape("vision_model.embeddings.class_embedding")
    projected = view.shape("visual_projection.weight")
    return (projected[0], hidden[-1]) if hidden and projected else ()


def base_of(view: TensorView) -> str:
    """The architecture that an add-on fits, "" if unknown."""
    for name, architecture in (
        ("patch_embed_base", "cosmos"), ("double_blocks.0", "flux"), ("single_transformer_blocks.0", "flux"),
        ("control_all_x_embedder", "z_image"),
        ("control_layers.0", "z_image"), ("transformer_blocks.0.img_mod", "qwen_image"), ("txt_norm", "qwen_image"),
        ("controlnet_blocks.0.y_rms", "qwen_image"), ("control_blocks.0.img_mod", "qwen_image"),
        ("after_proj_list.0", "hunyuan_dit"), ("time_extra_emb", "hunyuan_dit"), ("encoder_hid_proj", "kolors"),
        ("ip_adapter.0.norm_ip", "sd3"), ("image_proj.time_embedding", "sd3"), ("ip_adapter.0.to_k_ip", "flux"),
        ("joint_blocks.0", "sd3"),
        ("pos_embed_input", "sd3"), ("controlnet_x_embedder", "flux"), ("caption_norm", "sana"),
    ):  # fmt: skip
        if name in view.names:
            return architecture
    if view.has("transformer_blocks.0.norm1_context", "pos_embed"):
        return "sd3"
    if view.has("down_blocks.0.motion_modules.0"):  # SDXL has one level fewer
        return "sd1" if view.has("down_blocks.3.motion_modules.0") else "sdxl"
    for name, tensor in view.tensors.items():
        if name.endswith(("attn2.to_k.weight", "to_k_ip.weight")) and tensor.shape:
            return families.BY_TEXT_WIDTH.get(tensor.shape[-1], "")
    entrance = view.shape("adapter.conv_in.weight") or view.shape("conv_in.weight")
    if entrance and len(entrance) == 4 and entrance[1] >= 64:  # pixels unshuffled into channels: 8 x 8 or 16 x 16
        return "sdxl" if entrance[1] >= 256 else "sd1"
    return ""


def detect_lora(header: Header) -> Probe | None:
    if not is_lora(header):
        return None
    if any(".input_blocks.0.0.weight" in name and "lora" not in name for name in header.tensors):
        return None
    found = read_lora(header)
    return Probe(
        LORA, architecture=found.base if found.base in families.ARCHITECTURES else "", base=found.base, lora=found
    )


def detect_part(header: Header) -> Probe | None:
    """Detect a text encoder, VAE or image encoder in its own file."""
    if part := parts.part_of_gguf(header):
        held = (denoisers.held_part(part.id, TensorView(header)),)
        return Probe(part.kind, id=part.id, title=part.title, held=held, naming="llama.cpp")
    tried: list[tuple[TensorView, tuple[Part, ...]]] = []
    for anchors, kinds in ((parts.VAE_ANCHORS, parts.VAES), (parts.ANCHORS, parts.TEXT_ENCODERS)):
        tried += [(TensorView(header, prefix), kinds) for prefix in parts.prefixes(header, anchors)]
    prefixes = ("first_stage_model.", "vae.", "taesd_decoder.", "taesd_encoder.", "model.", "transformer.", "")
    for view in views(header, prefixes):
        tried += [(view, parts.VAES), (view, parts.VISIONS), (view, parts.TEXT_ENCODERS)]
    by_kind: dict[str, Probe] = {}
    for view, among in tried:
        each = parts.best_match(view, among)
        if each and each.kind not in by_kind:
            held = (denoisers.held_part(each.id, view),)
            widths = widths_of(view) if each.kind == parts.VISION else ()
            by_kind[each.kind] = Probe(
                each.kind, id=each.id, title=each.title, held=held, naming=naming_of(view), widths=widths
            )
    vision, text = by_kind.get(parts.VISION), by_kind.get(parts.TEXT_ENCODER)
    if vision and text and vision.id.startswith("clip_vision"):  # a whole CLIP, used as either
        return replace(vision, twin=text) if vision.widths else text
    for kind in (VAE, parts.VISION, parts.TEXT_ENCODER):
        if kind in by_kind:
            return by_kind[kind]
    if any(len(tensor.shape) == 5 for tensor in header.tensors.values()) and any(
        "decoder." in name for name in header.tensors
    ):
        return Probe(VAE, id="vae_video", title="a VAE of a video model")
    return None


def naming_of(view: TensorView) -> str:
    modules = (("decoder.up_blocks",), ("encoder.down_blocks",), ("decoder.layers.0", "encoder.layers.0"))
    return "diffusers" if any(view.has(*each) for each in modules) else "original"


def detect_embedding(header: Header) -> Probe | None:
    tensors = {name: each for name, each in header.tensors.items() if not name.startswith("string_to_token")}
    if not 0 < len(tensors) <= 6 or any(len(tensor.shape) not in (1, 2) for tensor in tensors.values()):
        return None
    widths = {tensor.shape[-1] for tensor in tensors.values()}
    if not (set(EMBEDDING_KEYS) & set(tensors) or widths & set(families.BY_TOKEN_WIDTH)):
        return None
    if any(name.endswith(PARAMETER_ENDS) for name in tensors):  # of a small network
        return None
    if widths <= OTHER_WIDTHS:
        return Probe(EMBEDDING, id="other", base=OTHER_MODEL)
    if T5_WIDTH in widths or (len(widths) > 1 and not set(EMBEDDING_KEYS) & set(tensors)):
        base = "sdxl" if T5_WIDTH not in widths else "sd3" if widths > {T5_WIDTH, 768} else "flux"
        return Probe(EMBEDDING, id="other", base=base, architecture=base if base in families.ARCHITECTURES else "")
    base = next(
        (
            name
            for name, each in families.ARCHITECTURES.items()
            if each.embedding_keys and each.embedding_keys <= set(tensors)
        ),
        "",
    )
    base = base or next((families.BY_TOKEN_WIDTH[each] for each in widths if each in families.BY_TOKEN_WIDTH), "")
    return Probe(EMBEDDING, base=base, architecture=base)


def detect_upscaler(header: Header) -> Probe | None:
    if not any(len(tensor.shape) == 4 for tensor in header.tensors.values()):
        return None
    for view in views(header, ("params_ema.", "params.", "model.", "module.", "")):
        if any(view.has(*names) for names in UPSCALER_KEYS):
            return Probe(UPSCALER)
    return None


def base_of_tiny_vae(header: Header, names: str) -> str:
    """The VAE whose latents a small one decodes, by its channels and name (TAESD, TAESDXL, TAEF1); "" if unknown."""
    shapes = [each for name in parts.TINY_ENTRANCES if (each := header.shape(name)) and len(each) == 4]
    channels = shapes[0][1] if shapes else 0
    if channels == 32:
        return "vae_flux2"
    words = {
        4: (("xl", "vae_sdxl"), ("taesd", "vae_sd1"), ("", "vae_sd")),
        16: (("sd3", "vae_sd3"), ("f1", "vae_flux"), ("", "vae_16")),
    }
    return next((vae for word, vae in words.get(channels, ()) if word in names.lower()), "")


def vae_by_name(part: str, name: str, metadata: dict[str, str]) -> str:
    """``vae_sd1``, ``vae_sdxl``, ``vae_flux`` or ``vae_sd3`` by the file's name and metadata, "" if unknown.

    The tensors do not tell, because VAEs of several models have the same ones.
    """
    hints = f"{name} {metadata.get('modelspec.architecture', '')}".lower()
    words = {
        "vae_sd": (("vae_sdxl", ("xl",)), ("vae_sd1", ("mse", "ema", "kl-f8", "klf8", "sd1", "sd-v1", "v1-5",
            "anything",
                   "orangemix", "blessed", "clearvae", "sd15", "840000", "560000"))),
        "vae_16": (("vae_sd3", ("sd3", "3.5")), ("vae_flux", ("flux", "ae.s", "chroma", "z_image", "zimage",
            "lumina"))),
    }  # fmt: skip
    return next((each for each, names in words[part] if any(word in hints for word in names)), "")
