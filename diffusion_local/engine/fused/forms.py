"""The fused forms of one loaded model: which of its pictures may use them, and which do."""

import logging
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from diffusion_local.engine import faults
from diffusion_local.engine.fused.decoder import FusedDecoder
from diffusion_local.engine.fused.denoiser import FusedDenoiser
from diffusion_local.engine.fused.operations import Operations
from diffusion_local.engine.fused.packing import Unsupported
from diffusion_local.errors import EngineError

T = TypeVar("T")

log = logging.getLogger(__name__)


class Forms:
    """Without ``operations`` there are none.

    ``lock`` is held by whoever runs or changes the model's VAE. ``decoded`` is the dtype in which a fused decoder
    decoded the latest picture, or empty.
    """

    def __init__(
        self, operations: Operations | None = None, forget: Callable[[], Any] = lambda: None, bf16: bool = False
    ) -> None:
        """``forget`` is called whenever the denoiser's weights have moved in memory; ``bf16``: whether the device
        computes in it."""
        self.lock = threading.RLock()
        self.decoded = ""
        self._bf16 = bf16
        self._operations, self._forget = operations, forget
        self._denoiser: FusedDenoiser | None = None
        self._decoder: tuple[Any, torch.dtype, FusedDecoder | None] | None = None

    def denoiser(self, pipe: Any, room: int) -> FusedDenoiser | None:
        """The fused UNet of a pipeline, or None. ``room``: bytes available for weights merged with LoRAs."""
        unet = getattr(pipe, "unet", None)
        if self._operations is None or unet is None:
            return None
        if self._denoiser is None:
            self._denoiser = FusedDenoiser(unet, self._operations, self._forget)
        return self._denoiser if self._denoiser.ready(room) else None

    def decoder(self, vae: Any, dtype: torch.dtype) -> FusedDecoder | None:
        """Of a VAE that stays on the device; ``dtype`` is the model's.

        A VAE in fp32 beside a model in half precision overflows in fp16, and is decoded in bf16.
        """
        self.decoded = ""
        if self._operations is None or (vae.dtype != dtype and not self._bf16):
            return None
        wanted = dtype if vae.dtype == dtype else torch.bfloat16
        if self._decoder is None or self._decoder[0] is not vae or self._decoder[1] != wanted:
            made: FusedDecoder | None = None
            try:
                made = FusedDecoder(vae, self._operations, wanted)
            except Unsupported as problem:
                log.info("pictures are decoded the exact way: the VAE has %s", problem)
            self._decoder = vae, wanted, made
        if self._decoder[2] is not None:
            self.decoded = str(wanted).removeprefix("torch.")
        return self._decoder[2]

    def fused_or_exact(self, decoder: FusedDecoder | None, decode: Callable[[FusedDecoder | None], T]) -> T:
        """``decode(decoder)``, or ``decode(None)`` from the first failure of a kernel on. Errors of the engine, a lack
        of memory and a lost device are raised as they are."""
        try:
            return decode(decoder)
        except EngineError:
            raise
        except Exception as problem:
            if decoder is None or faults.is_out_of_memory(problem) or faults.is_device_lost(problem):
                raise
            self.refuse_decoder(f"{type(problem).__name__}: {faults.first_line(problem)}")
        return decode(None)

    def refuse_decoder(self, why: str) -> None:
        """From now on this VAE decodes the exact way."""
        if self._decoder is not None and self._decoder[2] is not None:
            log.warning("pictures are decoded the exact way: %s", why)
            self._decoder = (*self._decoder[:2], None)
            self.decoded = ""

    def drop(self) -> None:
        """Restore the original forms, before weights change or move or exact results are requested."""
        if self._denoiser is not None:
            self._denoiser.drop()

    def facts(self) -> dict[str, Any]:
        """Facts for the recipe: which forms made the latest picture."""
        denoised = self._denoiser is not None and self._denoiser.used
        eight_bits = self._denoiser is not None and denoised and self._denoiser.eight_bits
        denoiser = "denoiser (8 bits)" if eight_bits else "denoiser"
        fused = [*[denoiser] * denoised, *[f"decoder ({self.decoded})"] * bool(self.decoded)]
        return {"speed": "fastest" if eight_bits else "fast", "fused": fused} if fused else {"speed": "exact"}
