"""The fused form of diffusers' UNet2DConditionModel as Stable Diffusion 1, 2, XL and related models use it. It
replaces the UNet's ``forward``, and falls back to the original wherever it does not apply.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput

from diffusion_local.engine import faults
from diffusion_local.engine.fused.layers import Convolution, Resample, Resnet, Transformer, picture, require, rows
from diffusion_local.engine.fused.operations import Operations
from diffusion_local.engine.fused.packing import Packing, Unsupported, eight_bit_bytes, lora_bytes, stacked_bias

DOWN = ("DownBlock2D", "CrossAttnDownBlock2D")
MIDDLE = ("UNetMidBlock2DCrossAttn", "UNetMidBlock2D")
UP = ("UpBlock2D", "CrossAttnUpBlock2D")
#: The same for 8-bit products, whose rounding alone gives 0.02.
EIGHT_BIT_TOLERANCE = 0.1
#: Arguments of ``UNet2DConditionModel.forward`` that the fused form supports.
SUPPORTED = {
    "sample",
    "timestep",
    "encoder_hidden_states",
    "timestep_cond",
    "added_cond_kwargs",
    "down_block_additional_residuals",
    "mid_block_additional_residual",
    "return_dict",
}


class Stage:
    """ResNet blocks, each followed by a transformer if the stage has any, and a final resampling or None."""

    def __init__(self, block: Any, packing: Packing, operations: Operations) -> None:
        attentions = getattr(block, "attentions", None) or []
        self.resnets = [Resnet(each, packing, operations) for each in block.resnets]
        self.transformers = [Transformer(each, packing, operations) for each in attentions]
        down, up = (getattr(block, f"{way}samplers", None) for way in ("down", "up"))
        samplers = list(down or up or [])
        require(len(samplers) <= 1, "a block that resamples twice")
        self.resample = Resample(samplers[0], packing, bool(up)) if samplers else None


class FusedUNet:
    """The fused UNet. ``text`` and ``embedding`` compute what is constant over a picture's steps; ``step`` is one step.

    While it exists, the UNet's convolution kernels are in channels-last order: call ``undo`` before the UNet itself
    must compute as it was loaded.
    """

    def __init__(self, unet: Any, operations: Operations, eight_bits: bool = False) -> None:
        """``eight_bits``: whether transformer blocks multiply 8-bit numbers. Raises Unsupported, leaving the UNet
        unchanged.
        """
        check_supported(unet)
        self.packing = Packing(eight_bits)
        try:
            self._build(unet, operations)
        except BaseException:
            self.packing.undo()
            raise

    def _build(self, unet: Any, operations: Operations) -> None:
        packing = self.packing
        self._unet, self._operations = unet, operations
        self._first, self._last = Convolution(unet.conv_in, packing), Convolution(unet.conv_out, packing)
        self._down = [Stage(block, packing, operations) for block in unet.down_blocks]
        self._middle = Stage(unet.mid_block, packing, operations)
        self._up = [Stage(block, packing, operations) for block in unet.up_blocks]
        blocks = [*unet.down_blocks, unet.mid_block, *unet.up_blocks]
        resnets = [each for block in blocks for each in block.resnets]
        times = [each.time_emb_proj for each in resnets]
        self._time_weight = packing.stacked(times)
        self._time_bias = _sum(stacked_bias(times), stacked_bias([each.conv1 for each in resnets]))
        self._time_sizes = [each.out_channels for each in resnets]
        found = [getattr(block, "attentions", None) or [] for block in blocks]
        crossing = [each.attn2 for models in found for model in models for each in model.transformer_blocks]
        layers = [layer for each in crossing for layer in (each.to_k, each.to_v)]
        self._text_weight = packing.stacked(layers) if layers else None
        self._text_bias = stacked_bias(layers) if layers else None
        self._text_sizes = [2 * each.inner_dim for each in crossing]

    def undo(self) -> None:
        """Restore the UNet's memory layout."""
        self.packing.undo()

    def text(self, states: torch.Tensor) -> torch.Tensor:
        """Keys and values of a prompt for all blocks, concatenated: N x tokens x channels to N x tokens x sum of their
        channels.
        """
        if self._text_weight is None:
            return states[..., :0]
        return F.linear(states, self._text_weight, self._text_bias)

    def embedding(self, states: torch.Tensor, added: dict[str, Any] | None) -> torch.Tensor | None:
        """The addition to the time embedding (SDXL: size and pooled prompt), or None."""
        found: torch.Tensor | None = self._unet.get_aug_embed(
            emb=states, encoder_hidden_states=states, added_cond_kwargs=added or {}
        )
        return found

    def step(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor,
        text: torch.Tensor,
        embedding: torch.Tensor | None = None,
        timestep_cond: torch.Tensor | None = None,
        down_residuals: Sequence[torch.Tensor] | None = None,
        middle_residual: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor]:
        """``sample``: N x C x h x w. Residuals (of a ControlNet) are added to the skip connections and the middle."""
        times = self._times(sample, timestep, embedding, timestep_cond)
        texts = iter(text.split(self._text_sizes, dim=2))
        x = self._first(sample.contiguous(memory_format=torch.channels_last))
        skips = [x]
        for stage in self._down:
            for number, resnet in enumerate(stage.resnets):
                x = resnet(x, next(times))
                if stage.transformers:
                    x = stage.transformers[number](x, texts)
                skips.append(x)
            if stage.resample is not None:
                x = stage.resample(x)
                skips.append(x)
        x = self._in_the_middle(x, times, texts)
        if down_residuals is not None:
            skips = [_added(skip, residual) for skip, residual in zip(skips, down_residuals, strict=True)]
        if middle_residual is not None:
            x = _added(x, middle_residual)
        for stage in self._up:
            for number, resnet in enumerate(stage.resnets):
                x = resnet(torch.cat([x, skips.pop()], dim=1), next(times))
                if stage.transformers:
                    x = stage.transformers[number](x, texts)
            if stage.resample is not None:
                x = stage.resample(x, skips[-1].shape[2:])
        height, width = x.shape[2:]
        normed = self._operations.group_norm(rows(x), self._unet.conv_norm_out, True)
        return (self._last(picture(normed, height, width)).contiguous(),)

    def _times(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor,
        embedding: torch.Tensor | None,
        condition: torch.Tensor | None,
    ) -> Any:
        """The time embedding as each ResNet block adds it: N x C, concatenated."""
        time = self._unet.time_embedding(self._unet.get_time_embed(sample=sample, timestep=timestep), condition)
        if embedding is not None:
            time = time + embedding
        shifts = F.linear(F.silu(time), self._time_weight, self._time_bias)
        return iter(shifts.split(self._time_sizes, dim=1))

    def _in_the_middle(self, x: torch.Tensor, times: Any, texts: Any) -> torch.Tensor:
        x = self._middle.resnets[0](x, next(times))
        for number, resnet in enumerate(self._middle.resnets[1:]):
            if self._middle.transformers:
                x = self._middle.transformers[number](x, texts)
            x = resnet(x, next(times))
        return x


def check_supported(unet: Any) -> None:
    """Raises Unsupported for a UNet with parts that have no fused form."""
    require(type(unet) is UNet2DConditionModel, f"a denoiser of type {type(unet).__name__}")
    config = unet.config
    for names, known in ((config.down_block_types, DOWN), (config.up_block_types, UP)):
        for name in names:
            require(name in known, f"a block of type {name}")
    require(type(unet.mid_block).__name__ in MIDDLE, f"a block of type {type(unet.mid_block).__name__}")
    require(all(each is not None for each in getattr(unet.mid_block, "attentions", ())), "a middle without attention")
    require(config.addition_embed_type in (None, "text_time"), f"an embedding of type {config.addition_embed_type}")
    require(unet.class_embedding is None and unet.time_embed_act is None, "a class embedding")
    require(unet.encoder_hid_proj is None, "a projection of the prompt")
    require(isinstance(unet.conv_act, torch.nn.SiLU) and unet.conv_norm_out is not None, "an unusual output")
    require(not config.center_input_sample, "centred input")
    for block in unet.up_blocks:  # set by enable_freeu
        require(all(getattr(block, name, None) is None for name in ("s1", "s2", "b1", "b2")), "FreeU")


def _sum(first: torch.Tensor | None, second: torch.Tensor | None) -> torch.Tensor | None:
    return second if first is None else first if second is None else first + second


def _added(x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
    return (x + residual).contiguous(memory_format=torch.channels_last)


log = logging.getLogger(__name__)

#: Relative L2 difference from the UNet's own first step above which the fused form counts as wrong. Rounding alone
#: gives a tenth of it.
TOLERANCES = {torch.float16: 0.02, torch.bfloat16: 0.1, torch.float32: 0.002}


class Run(Protocol):
    """Calls a function, possibly through a CUDA graph; ``part`` names the function."""

    def __call__(self, part: str, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any: ...


class FusedDenoiser:
    """The fused form of one model's UNet.

    Its first step is compared with the UNet's own. If they differ, or a kernel fails, the model uses the exact path
    from then on, and the reason is logged once.
    """

    name = "denoiser"

    def __init__(self, unet: Any, operations: Operations, forget: Callable[[], Any]) -> None:
        """``forget`` is called whenever weights have moved in memory."""
        self.used = False
        self.eight_bits = operations.eight_bits and gains_by_eight_bits(unet)
        self._unet, self._operations, self._forget = unet, operations, forget
        self._form: FusedUNet | None = None
        self._checked = False
        self._refused = self._unfit = ""
        self._prompts: list[tuple[tuple[Any, ...], Any]] = []

    @property
    def path(self) -> tuple[bool, bool]:
        """Which code computes a step: (whether the fused form, whether in 8 bits)."""
        return self._form is not None, self.eight_bits

    def ready(self, room: int) -> bool:
        """Whether the next picture can use the fused form, which is built if necessary.

        ``room``: bytes available for copies of weights merged with LoRAs.
        """
        self.used, self._prompts = False, []
        if self._form is None and not self._refused and not self._unfit:
            if lora_bytes(self._unet) > room:
                log.info("the denoiser runs the exact way: there is no room for weights with the LoRAs added")
                return False
            if self.eight_bits and lora_bytes(self._unet) + eight_bit_bytes(self._unet) > room:
                self._refuse_eight_bits("there is no room for weights in 8 bits")
            try:
                self._form = FusedUNet(self._unet, self._operations, self.eight_bits)
            except Unsupported as problem:
                self._unfit = f"it has {problem}"
                log.warning("the denoiser runs the exact way: %s", self._unfit)
            self._forget()
        return self._form is not None

    def drop(self) -> None:
        """Restore the UNet as it was loaded, before its weights change or the exact path is requested."""
        form, self._form, self._unfit = self._form, None, ""  # other LoRAs may fit
        self._prompts, self._checked = [], False
        if form is not None:
            form.undo()
            self._forget()

    def forward(self, run: Run, exact: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Has the signature of ``UNet2DConditionModel.forward``; ``exact`` is the original."""
        inputs = kwargs | dict(zip(("sample", "timestep", "encoder_hidden_states"), args, strict=False))
        unknown = [name for name, value in inputs.items() if name not in SUPPORTED and value is not None]
        if self._form is None or unknown or len(args) > 3:
            return run("denoiser", exact, *args, **kwargs) if self._form is None else exact(*args, **kwargs)
        try:
            output = self._step(run, inputs, lambda: exact(*args, **kwargs))
        except Exception as problem:
            if faults.is_out_of_memory(problem) or faults.is_device_lost(problem):
                raise
            why = f"{type(problem).__name__}: {problem}"
            if self.eight_bits:
                self._refuse_eight_bits(why)
            else:
                self._refuse(why, problem)
            self.drop()
            return run("denoiser", exact, *args, **kwargs)
        self.used = True
        return UNet2DConditionOutput(sample=output[0]) if inputs.get("return_dict", True) else output

    def _step(self, run: Run, call_arguments: dict[str, Any], exact: Callable[[], Any]) -> Any:
        form, sample, timestep = self._form, call_arguments["sample"], call_arguments["timestep"]
        assert form is not None
        text, embedding = self._prepared(
            call_arguments["encoder_hidden_states"], call_arguments.get("added_cond_kwargs")
        )
        if not torch.is_tensor(timestep):
            timestep = torch.as_tensor(timestep, device=sample.device)
        residuals = call_arguments.get("down_block_additional_residuals")
        inputs = (
            sample,
            timestep,
            text,
            embedding,
            call_arguments.get("timestep_cond"),
            None if residuals is None else tuple(residuals),
            call_arguments.get("mid_block_additional_residual"),
        )
        if self._checked:
            return run("fused denoiser", form.step, *inputs)
        output = form.step(*inputs)
        check(output[0], exact()[0], EIGHT_BIT_TOLERANCE if self.eight_bits else 0.0)
        self._checked = True
        return output

    def _prepared(self, states: torch.Tensor, added: dict[str, Any] | None) -> Any:
        """Keys, values and embedding of the prompt, cached while steps pass the same tensors (or two halves)."""
        source = (states, *(added or {}).values())
        for known, prepared in self._prompts:
            if [*map(id, known)] == [*map(id, source)]:
                return prepared
        form = self._form
        assert form is not None
        found = form.text(states), form.embedding(states, added)
        self._prompts = [*self._prompts[-1:], (source, found)]
        return found

    def _refuse_eight_bits(self, why: str) -> None:
        """Use 16 bits in the fused form from the next picture on."""
        self.eight_bits = False
        log.warning("the denoiser does not run in 8 bits: %s", why.splitlines()[0])

    def _refuse(self, why: str, problem: Exception | None = None) -> None:
        self._refused = why
        log.warning("the denoiser runs the exact way: %s", why.splitlines()[0], exc_info=problem)


class Differs(Exception):
    """The fused form gives a different result."""


def gains_by_eight_bits(unet: Any) -> bool:
    """Whether 8-bit products pay: SDXL and related models spend their time in large products; SD 1 and 2 measurably
    gain nothing.
    """
    return bool(unet.config.addition_embed_type == "text_time")


def check(output: torch.Tensor, expected: torch.Tensor, tolerance: float = 0.0) -> None:
    """Raises Differs; a NaN on either side counts as a difference. ``tolerance``: 0 means that of the dtype."""
    difference = (output.float() - expected.float()).norm() / expected.float().norm()
    if not difference <= (tolerance or TOLERANCES.get(output.dtype, 0.02)):
        raise Differs(f"the fused form differs from the model by {difference:.2g}")
