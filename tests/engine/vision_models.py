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
    given = transformers.YolosImageProcessorPil(size={"height": 32, "width": 32})
    given.save_pretrained(folder / "detector")
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
