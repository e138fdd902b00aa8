"""Runs a UNet's fused form in place of its ``forward``, and the UNet itself whenever that cannot be."""

import logging
from collections.abc import Callable
from typing import Any, Protocol

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput

from diffusion_local.engine import faults
from diffusion_local.engine.fused.operations import Operations
from diffusion_local.engine.fused.packing import Unsupported, eight_bit_bytes, lora_bytes
from diffusion_local.engine.fused.unet import FusedUNet

log = logging.getLogger(__name__)

#: Relative L2 difference from the UNet's own first step above which the fused form counts as wrong. Rounding alone
#: comes to a tenth of it.
TOLERANCES = {torch.float16: 0.02, torch.bfloat16: 0.1, torch.float32: 0.002}
#: The same with products of 8-bit numbers, which alone make 0.02.
EIGHT_BIT_TOLERANCE = 0.1
#: Arguments of ``UNet2DConditionModel.forward`` that the fused form takes.
KNOWN = {
    "sample",
    "timestep",
    "encoder_hidden_states",
    "timestep_cond",
    "added_cond_kwargs",
    "down_block_additional_residuals",
    "mid_block_additional_residual",
    "return_dict",
}


class Run(Protocol):
    """Calls a function, possibly by a CUDA graph; ``part`` names the function."""

    def __call__(self, part: str, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any: ...


class FusedDenoiser:
    """The fused form of one model's UNet.

    Its first step is compared with the UNet's own. If it differs, or a kernel fails, the model runs the exact way from
    then on, and the log says why once.
    """

    def __init__(self, unet: Any, operations: Operations, forget: Callable[[], Any]) -> None:
        """``forget`` is called whenever weights have moved in memory."""
        self.used = False
        self.eight_bits = operations.eight_bits and gains_by_eight_bits(unet)
        self._unet, self._operations, self._forget = unet, operations, forget
        self._form: FusedUNet | None = None
        self._checked = False
        self._refused = self._unfit = ""
        self._prompt: tuple[tuple[Any, ...], Any] | None = None

    def ready(self, room: int) -> bool:
        """Whether the next picture can be made by the fused form, which is built if need be.

        ``room``: bytes that merged copies of weights with LoRAs may take.
        """
        self.used, self._prompt = False, None
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
        """Let the UNet be as it was loaded, before its weights change or the exact way is asked for."""
        form, self._form, self._unfit = self._form, None, ""  # other LoRAs may fit
        self._prompt, self._checked = None, False
        if form is not None:
            form.undo()
            self._forget()

    def forward(self, run: Run, exact: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """As ``UNet2DConditionModel.forward``; ``exact`` is that."""
        given = kwargs | dict(zip(("sample", "timestep", "encoder_hidden_states"), args, strict=False))
        unknown = [name for name, value in given.items() if name not in KNOWN and value is not None]
        if self._form is None or unknown or len(args) > 3:
            return run("denoiser", exact, *args, **kwargs) if self._form is None else exact(*args, **kwargs)
        try:
            output = self._step(run, given, lambda: exact(*args, **kwargs))
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
        return UNet2DConditionOutput(sample=output[0]) if given.get("return_dict", True) else output

    def _step(self, run: Run, given: dict[str, Any], exact: Callable[[], Any]) -> Any:
        form, sample, timestep = self._form, given["sample"], given["timestep"]
        assert form is not None
        text, embedding = self._prepared(given["encoder_hidden_states"], given.get("added_cond_kwargs"))
        if not torch.is_tensor(timestep):
            timestep = torch.as_tensor(timestep, device=sample.device)
        residuals = given.get("down_block_additional_residuals")
        inputs = (
            sample,
            timestep,
            text,
            embedding,
            given.get("timestep_cond"),
            None if residuals is None else tuple(residuals),
            given.get("mid_block_additional_residual"),
        )
        if self._checked:
            return run("fused denoiser", form.step, *inputs)
        output = form.step(*inputs)
        check(output[0], exact()[0], EIGHT_BIT_TOLERANCE if self.eight_bits else 0.0)
        self._checked = True
        return output

    def _prepared(self, states: torch.Tensor, added: dict[str, Any] | None) -> Any:
        """Keys, values and embedding of the prompt, computed at the first of the steps that bring the same tensors."""
        source = (states, *(added or {}).values())
        known = self._prompt
        if known is None or [*map(id, known[0])] != [*map(id, source)]:
            form = self._form
            assert form is not None
            self._prompt = known = source, (form.text(states), form.embedding(states, added))
        return known[1]

    def _refuse_eight_bits(self, why: str) -> None:
        """The next picture is made by the fused form in 16 bits."""
        self.eight_bits = False
        log.warning("the denoiser does not run in 8 bits: %s", why.splitlines()[0])

    def _refuse(self, why: str, problem: Exception | None = None) -> None:
        self._refused = why
        log.warning("the denoiser runs the exact way: %s", why.splitlines()[0], exc_info=problem)


class Differs(Exception):
    """The fused form computes something else."""


def gains_by_eight_bits(unet: Any) -> bool:
    """SDXL and its kin spend their time in large products; SD 1 and 2 were measured to gain nothing."""
    return bool(unet.config.addition_embed_type == "text_time")


def check(output: torch.Tensor, expected: torch.Tensor, tolerance: float = 0.0) -> None:
    """``tolerance``: 0 is that of the dtype. Raises Differs; a NaN on either side counts as different."""
    difference = (output.float() - expected.float()).norm() / expected.float().norm()
    if not difference <= (tolerance or TOLERANCES.get(output.dtype, 0.02)):
        raise Differs(f"the fused form differs from the model by {difference:.2g}")
