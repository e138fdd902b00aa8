"""Tiny random models of transformers for the preprocessors that need one, in folders as they are published."""

from pathlib import Path

import torch
import transformers


def pose_model(folder: Path) -> Path:
    """A YOLOS detector and a ViTPose with the dimensions shrunken, in two folders."""
    labels = {"id2label": {0: "cat", 1: "person"}, "label2id": {"cat": 0, "person": 1}}
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    detector = transformers.YolosConfig(
        **size, **labels, intermediate_size=16, image_size=[32, 32], patch_size=16, num_detection_tokens=3
    )
    transformers.YolosForObjectDetection(detector).save_pretrained(folder / "detector")
    processor = transformers.YolosImageProcessorPil(size={"height": 32, "width": 32})
    processor.save_pretrained(folder / "detector")
    backbone = transformers.VitPoseBackboneConfig(**size, image_size=[64, 48], patch_size=[16, 16], out_indices=[1])
    pose = transformers.VitPoseConfig(backbone_config=backbone, num_labels=17, use_simple_decoder=True)
    transformers.VitPoseForPoseEstimation(pose).save_pretrained(folder / "pose")
    return folder


def depth_model(folder: Path, kind: str = "relative") -> Path:
    """Depth Anything with the dimensions shrunken; ``kind``: relative or metric."""
    backbone = transformers.Dinov2Config(
        hidden_size=16, num_hidden_layers=4, num_attention_heads=2, mlp_ratio=2, image_size=56, patch_size=14,
        out_indices=[1, 2, 3, 4], reshape_hidden_states=False, apply_layernorm=True,
    )  # fmt: skip
    config = transformers.DepthAnythingConfig(
        backbone_config=backbone, reassemble_hidden_size=16, neck_hidden_sizes=[8, 8, 8, 8], fusion_hidden_size=8,
        head_hidden_size=8, depth_estimation_type=kind, max_depth=20, patch_size=14,
    )  # fmt: skip
    torch.manual_seed(7)
    model = transformers.DepthAnythingForDepthEstimation(config).eval()
    with torch.no_grad():  # as transformers draws them, a picture hardly counts and the result may be zero everywhere
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(8)
        model.head.conv3.bias.fill_(1.0)
    model.save_pretrained(folder)
    processor = transformers.DPTImageProcessorPil(
        size={"height": 56, "width": 56}, keep_aspect_ratio=True, ensure_multiple_of=14, do_rescale=True,
        image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225],
    )  # fmt: skip
    processor.save_pretrained(folder)
    return folder


def segment_model(folder: Path, classes: int = 150) -> Path:
    """A Segformer with the dimensions shrunken."""
    config = transformers.SegformerConfig(
        num_encoder_blocks=2, depths=[1, 1], sr_ratios=[2, 1], hidden_sizes=[8, 16], patch_sizes=[7, 3], strides=[4, 2],
        num_attention_heads=[1, 2], mlp_ratios=[2, 2], decoder_hidden_size=16, num_labels=classes,
    )  # fmt: skip
    torch.manual_seed(7)
    transformers.SegformerForSemanticSegmentation(config).save_pretrained(folder)
    transformers.SegformerImageProcessorPil(size={"height": 64, "width": 64}).save_pretrained(folder)
    return folder


def detector_model(folder: Path) -> Path:
    """A YOLOS detector of cats and people with the dimensions shrunken."""
    return pose_model(folder) / "detector"


def words_detector(folder: Path, tokenizer: Path) -> Path:
    """An OWL-ViT, which finds what words name, with the dimensions shrunken."""
    reader = transformers.CLIPTokenizer.from_pretrained(tokenizer)
    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = size | {"vocab_size": len(reader), "max_position_embeddings": 77}
    config = transformers.OwlViTConfig(
        text_config=text, vision_config=size | {"image_size": 32, "patch_size": 16}, projection_dim=16
    )
    torch.manual_seed(7)
    transformers.OwlViTForObjectDetection(config).save_pretrained(folder)
    processor = transformers.OwlViTImageProcessorPil(
        size={"height": 32, "width": 32}, crop_size={"height": 32, "width": 32}
    )
    transformers.OwlViTProcessor(processor, reader).save_pretrained(folder)
    return folder


def caption_model(folder: Path, tokenizer: Path) -> Path:
    """A BLIP with the dimensions shrunken, which says something random."""
    reader = transformers.CLIPTokenizer.from_pretrained(tokenizer)
    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    marks = {
        "bos_token_id": reader.bos_token_id,
        "eos_token_id": reader.eos_token_id,
        "sep_token_id": reader.eos_token_id,
    }
    text = size | marks | {
        "vocab_size": len(reader), "encoder_hidden_size": 16, "max_position_embeddings": 128,
        "pad_token_id": reader.eos_token_id, "is_decoder": True,
    }  # fmt: skip
    config = transformers.BlipConfig(text_config=text, vision_config=size | {"image_size": 32, "patch_size": 16})
    torch.manual_seed(7)
    transformers.BlipForConditionalGeneration(config).save_pretrained(folder)
    processor = transformers.BlipImageProcessorPil(size={"height": 32, "width": 32})
    transformers.BlipProcessor(processor, reader).save_pretrained(folder)
    return folder


def saliency_weights(inner: int = 4, outer: int = 8, fused: bool = True) -> dict[str, torch.Tensor]:
    """A U²-Net, or an IS-Net, with fewer channels, under the names of the published ones."""
    state: dict[str, torch.Tensor] = {}

    def convolution(name: str, into: int, out: int, side: int = 3) -> None:
        state[f"{name}.weight"] = torch.randn(out, into, side, side) * 0.3
        state[f"{name}.bias"] = torch.randn(out) * 0.1

    def layer(name: str, into: int, out: int) -> None:
        convolution(f"{name}.conv_s1", into, out)
        state[f"{name}.bn_s1.weight"], state[f"{name}.bn_s1.bias"] = torch.ones(out), torch.zeros(out)
        state[f"{name}.bn_s1.running_mean"], state[f"{name}.bn_s1.running_var"] = torch.zeros(out), torch.ones(out)

    first = 3 if fused else outer
    if not fused:
        convolution("conv_in", 3, outer)
    heights = {"stage1": 7, "stage2": 6, "stage3": 5, "stage4": 4, "stage5": 4, "stage6": 4}
    ways = {name: (height, outer) for name, height in heights.items()}
    ways |= {f"{name}d": (height, 2 * outer) for name, height in heights.items() if name != "stage6"}
    for name, (height, into) in ways.items():
        layer(f"{name}.rebnconvin", first if name == "stage1" else into, outer)
        for number in range(1, height + 1):
            layer(f"{name}.rebnconv{number}", outer if number == 1 else inner, inner)
        for number in range(height - 1, 0, -1):
            layer(f"{name}.rebnconv{number}d", 2 * inner, outer if number == 1 else inner)
    for number in range(1, 7):
        convolution(f"side{number}", outer, 1)
    if fused:
        convolution("outconv", 6, 1, 1)
    return state
