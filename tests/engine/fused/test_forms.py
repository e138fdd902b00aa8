"""The fused decoder, and what a model's forms remember of its VAE."""

import logging

import pytest
import torch

from diffusion_local.engine import autoencoder
from diffusion_local.engine.fused.forms import Forms, FusedDecoder
from diffusion_local.engine.fused.operations import TorchOperations
from tests.engine.fused import models
from tests.engine.fused.models import difference

CPU = torch.device("cpu")
LATENTS = torch.randn(1, 4, 10, 6, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("changes", [{}, {"use_post_quant_conv": False}, {"mid_block_add_attention": False}])
def test_it_decodes_the_same(changes: dict[str, bool]) -> None:
    vae = models.vae(**changes)
    before = {name: each.clone() for name, each in vae.state_dict().items()}
    found = FusedDecoder(vae, TorchOperations(), torch.float32, CPU)(LATENTS)
    assert difference(found, vae.decode(LATENTS, return_dict=False)[0]) < 1e-4
    assert all(torch.equal(each, before[name]) for name, each in vae.state_dict().items())


def test_a_vae_that_decodes_in_tiles_has_its_tiles_and_blends_them_alike() -> None:
    forgotten: list[int] = []
    vae, forms = models.vae(), Forms(TorchOperations(), lambda: forgotten.append(1))
    whole = forms.decoder(vae, torch.float32, CPU)
    assert forms.decoder(vae, torch.float32, CPU) is whole
    assert not forgotten
    vae.enable_tiling()
    vae.tile_sample_min_size, vae.tile_latent_min_size = 8, 4
    decoder = forms.decoder(vae, torch.float32, CPU)
    assert whole is not None
    assert decoder is not None
    assert decoder is not whole
    assert forgotten == [1]  # a graph of the other one is not used again
    for height, width in ((10, 6), (4, 4), (3, 9), (16, 5)):
        latents = torch.randn(1, 4, height, width, generator=torch.Generator().manual_seed(5))
        expected = vae.decode(latents, return_dict=False)[0]
        assert decoder(latents).shape == expected.shape
        assert difference(decoder(latents), expected) < 1e-4
    assert difference(decoder(LATENTS), whole(LATENTS)) > 1e-3  # it really decodes in tiles


def test_a_vae_in_fp32_beside_a_model_in_half_precision_is_decoded_in_bf16() -> None:
    vae = models.vae()
    assert Forms(TorchOperations(), bf16=False).decoder(vae, torch.float16, CPU) is None
    forms = Forms(TorchOperations(), bf16=True)
    decoder = forms.decoder(vae, torch.float16, CPU)
    assert decoder is not None
    assert (decoder.dtype, forms.decoded) == (torch.bfloat16, "bfloat16")
    assert difference(decoder(LATENTS), vae.decode(LATENTS, return_dict=False)[0]) < 0.05
    assert vae.dtype == torch.float32
    assert forms.decoder(vae, torch.float16, CPU) is decoder
    assert forms.decoder(models.vae(), torch.float16, CPU) is not decoder  # another VAE was put in


def test_one_that_gives_no_numbers_is_not_used_again(caplog: pytest.LogCaptureFixture) -> None:
    vae, forms = models.vae(), Forms(TorchOperations())
    assert forms.decoder(vae, torch.float32, CPU) is not None
    with caplog.at_level(logging.WARNING):
        picture, messages = autoencoder.decode(
            vae, LATENTS, lambda: None, lambda latents: torch.full((1, 3, 20, 12), torch.nan), forms.refuse_decoder
        )
    expected, _ = autoencoder.decode(vae, LATENTS, lambda: None)
    assert picture.tobytes() == expected.tobytes()
    assert messages == ""
    assert forms.decoder(vae, torch.float32, CPU) is None
    assert forms.decoded == ""
    assert caplog.messages == ["pictures are decoded the exact way: the VAE gave no numbers"]


def test_one_that_gives_a_black_picture_is_used_again_if_the_vae_gives_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    vae, forms = models.vae(), Forms(TorchOperations())
    decoder = forms.decoder(vae, torch.float32, CPU)
    black = torch.full((1, 3, 20, 12), -1.0)
    with monkeypatch.context() as patched:
        patched.setattr(vae, "decode", lambda latents, return_dict: (black,))
        picture, _ = autoencoder.decode(vae, LATENTS, lambda: None, lambda latents: black, forms.refuse_decoder)
    assert picture.getbbox() is None
    assert forms.decoder(vae, torch.float32, CPU) is decoder
    autoencoder.decode(vae, LATENTS, lambda: None, lambda latents: black, forms.refuse_decoder)
    assert forms.decoder(vae, torch.float32, CPU) is None


def test_one_whose_kernel_fails_is_not_used_again(caplog: pytest.LogCaptureFixture) -> None:
    vae, forms = models.vae(), Forms(TorchOperations())

    def failing(latents: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("Failed to find C compiler. Please specify via CC environment variable.")

    decoder = forms.decoder(vae, torch.float32, CPU)
    found, _ = forms.fused_or_exact(
        decoder, lambda used: autoencoder.decode(vae, LATENTS, lambda: None, used and failing, forms.refuse_decoder)
    )
    expected, _ = autoencoder.decode(vae, LATENTS, lambda: None)
    assert found.tobytes() == expected.tobytes()
    assert forms.decoder(vae, torch.float32, CPU) is None
    assert ["C compiler" in line for line in caplog.messages] == [True]
    with pytest.raises(torch.OutOfMemoryError):
        forms.fused_or_exact(decoder, lambda used: (_ for _ in ()).throw(torch.OutOfMemoryError("out of memory")))
