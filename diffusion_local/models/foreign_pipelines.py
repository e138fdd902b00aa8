"""Names of the models behind unsupported pipeline classes, so that messages about diffusers folders can name them."""

from diffusion_local import families
from diffusion_local.errors import echo
from diffusion_local.messages import Message, message

PICTURE, VIDEO, AUDIO, SOLID, TEXT = "picture", "video", "audio", "3D", "text"
#: Beginnings of class names, the longer ones of a kind first; titles complete "It is ...".
PIPELINES: tuple[tuple[str, str, str], ...] = tuple(
    (begins, title, made)
    for made, entries in {
        VIDEO: (
            ("AnimateDiff", "AnimateDiff"), ("Allegro", "Allegro"), ("AnyFlow", "AnyFlow"), ("CogVideoX", "CogVideoX"),
            ("ConsisID", "ConsisID"), ("CosmosTextToWorld", "Cosmos"), ("CosmosVideoToWorld", "Cosmos"),
            ("Cosmos2Video", "Cosmos Predict 2"), ("Cosmos2_5", "Cosmos 2.5"), ("Cosmos3", "Cosmos 3"),
            ("EasyAnimate", "EasyAnimate"), ("Helios", "Helios"), ("HunyuanVideo15", "HunyuanVideo 1.5"),
            ("HunyuanVideo", "HunyuanVideo"), ("HunyuanSkyreels", "SkyReels"), ("I2VGenXL", "I2VGen-XL"),
            ("Kandinsky5T2V", "Kandinsky 5"), ("Kandinsky5I2V", "Kandinsky 5"), ("Kandinsky6TI2VA", "Kandinsky 6"),
            ("LTX2", "LTX-2"), ("LTX", "LTX-Video"), ("Latte", "Latte"), ("LucyEdit", "Lucy Edit"),
            ("MiniMaxH3", "MiniMax H3"), ("Mochi", "Mochi"), ("MotifVideo", "Motif Video"), ("PIA", "PIA"),
            ("SanaImageToVideo", "Sana Video"), ("SanaVideo", "Sana Video"), ("SanaWM", "Sana WM"),
            ("SkyReels", "SkyReels"), ("StableVideoDiffusion", "Stable Video Diffusion"),
            ("TextToVideoZero", "Text2Video-Zero"), ("TextToVideo", "ModelScope"), ("VideoToVideo", "Zeroscope"),
            ("Wan", "Wan"),
        ),
        AUDIO: (
            ("AceStep", "ACE-Step"), ("AudioDiffusion", "Audio Diffusion"), ("AudioLDM", "AudioLDM"),
            ("DanceDiffusion", "Dance Diffusion"), ("LongCatAudio", "LongCat AudioDiT"), ("MusicLDM", "MusicLDM"),
            ("MiniMaxMusic", "MiniMax Music"), ("SpectrogramDiffusion", "Spectrogram Diffusion"),
            ("StableAudio", "Stable Audio"),
        ),
        SOLID: (("ShapE", "Shap-E"),),
        TEXT: (("DiffusionGemma", "DiffusionGemma"), ("LLaDA2", "LLaDA 2")),
        PICTURE: (
            ("AltDiffusion", "AltDiffusion"), ("Amused", "aMUSEd"), ("BlipDiffusion", "BLIP-Diffusion"),
            ("BriaFibo2", "Bria FIBO 2"), ("BriaFibo", "Bria FIBO"), ("Bria", "Bria 3"), ("ChronoEdit", "ChronoEdit"),
            ("CogView3", "CogView3-Plus"), ("ConsistencyModel", "a consistency model that reads no text"),
            ("CycleDiffusion", "CycleDiffusion"), ("DDIM", "a model that reads no text (DDIM)"),
            ("DDPM", "a model that reads no text (DDPM)"), ("DiT", "DiT, which draws classes instead of texts"),
            ("DreamLite", "DreamLite"), ("FluxPriorRedux", "FLUX.1 Redux"), ("Flux3", "FLUX.3"),
            ("GlmImage", "GLM-Image"), ("HunyuanImageRefiner", "the refiner of HunyuanImage 2.1"),
            ("IF", "DeepFloyd IF"), ("Ideogram4", "Ideogram 4"), ("JoyImageEdit", "JoyImage Edit"),
            ("Kandinsky3", "Kandinsky 3"), ("Kandinsky5", "Kandinsky 5"),
            ("Kandinsky6SR", "the upscaler of Kandinsky 6"),
            ("KandinskyV22", "Kandinsky 2.2"), ("Kandinsky", "Kandinsky 2"), ("KarrasVe", "a model that reads no text"),
            ("LDMSuperResolution", "an upscaler by latent diffusion"), ("LDM", "Latent Diffusion"),
            ("Lumina", "Lumina-Next"), ("Marigold", "Marigold, which estimates depth or normals"),
            ("NucleusMoEImage", "Nucleus-Image"), ("OmniGen", "OmniGen"), ("Onnx", "Stable Diffusion in ONNX form"),
            ("PNDM", "a model that reads no text (PNDM)"), ("PRX", "PRX"), ("PaintByExample", "Paint by Example"),
            ("QwenImageLayered", "Qwen-Image-Layered"), ("RFD4", "RFD4 Proteina, a model for proteins"),
            ("RePaint", "RePaint"), ("ScoreSdeVe", "a model that reads no text"),
            ("SemanticStableDiffusion", "Semantic Stable Diffusion"),
            ("StableDiffusionDepth2Img", "the depth model of SD 2"), ("StableDiffusionGLIGEN", "GLIGEN"),
            ("StableDiffusionImageVariation", "Stable Diffusion for variations of a picture"),
            ("StableDiffusionLDM3D", "LDM3D"), ("StableDiffusionLatentUpscale", "the x2 upscaler of latents of SD 2"),
            ("StableDiffusionUpscale", "the x4 upscaler of SD 2"), ("StableUnCLIP", "SD 2 unCLIP"),
            ("UnCLIP", "unCLIP (Karlo)"),
            ("UniDiffuser", "UniDiffuser"), ("VQDiffusion", "VQ-Diffusion"),
            ("VersatileDiffusion", "Versatile Diffusion"), ("VisualCloze", "VisualCloze"),
            ("Wuerstchen", "Würstchen"),
        ),
    }.items()
    for begins, title in entries
)  # fmt: skip


def makes_no_pictures(title: str, makes: str) -> Message:
    """The message about a model that makes video, audio, 3D objects or text."""
    made = {
        VIDEO: message("file_video", title=title),
        AUDIO: message("file_audio", title=title),
        SOLID: message("file_solid", title=title),
        TEXT: message("file_text_model", title=title),
    }
    return made[makes]


def unsupported_class(name: str) -> Message:
    """The message about an unsupported pipeline class, with the model that it stands for if that is known."""
    for begins, title, makes in PIPELINES:
        if name.startswith(begins):
            return message("file_not_yet_that", title=title) if makes == PICTURE else makes_no_pictures(title, makes)
    if title := family_of(name):
        return message("pipeline_variant", title=title, name=echo(name))
    return message("pipeline_class", name=echo(name))


def family_of(name: str) -> str:
    """The title of the family whose pipelines' names this one extends; "" if there is none."""
    matches = [
        (len(begins), family.title)
        for family in families.FAMILIES.values()
        for each in family.pipelines
        if name.startswith(begins := each.removesuffix("Pipeline"))
    ]
    return max(matches, default=(0, ""))[1]
