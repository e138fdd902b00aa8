"""Tokenizer, VAE, denoiser, assembly: the recipe at tiny size."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from scripts.starter import (
    assemble,
    classifier,
    encode_latents,
    evaluate,
    harden_text_encoder,
    pack_art,
    sources,
    train_control,
    train_denoiser,
    train_tokenizer,
    train_vae,
)
from scripts.starter.flat import FlatWeights
from scripts.starter.models import TextEncoder, Tokenizer, noise_schedule
from scripts.starter.pack import Pack
from scripts.starter.recipes import KINDS

pytestmark = pytest.mark.slow


def _arguments(shards: Path, tokenizer_folder: Path, out: Path, *more: str) -> list[str]:
    return ["--latents", str(shards), "--tokenizer", str(tokenizer_folder), "--out", str(out), "--model", "tiny",
            "--batch", "4", "--device", "cpu", "--check-every", "2", "--log-every", "2", *more]  # fmt: skip


@pytest.mark.parametrize(
    "module",
    [sources, pack_art, train_tokenizer, train_vae, encode_latents, train_denoiser, harden_text_encoder, assemble,
     classifier, evaluate, train_control],
)  # fmt: skip
def test_every_step_explains_itself(module: object, capsys: pytest.CaptureFixture[str]) -> None:
    run = getattr(module, "parse", None) or module.main  # type: ignore[attr-defined]
    with pytest.raises(SystemExit) as stop:
        run(["--help"])
    assert stop.value.code == 0
    assert "--out" in capsys.readouterr().out


def test_tokenizer_agrees_with_transformers(tokenizer_folder: Path) -> None:
    from transformers import CLIPTokenizer

    mine, theirs = Tokenizer(tokenizer_folder), CLIPTokenizer.from_pretrained(tokenizer_folder)
    texts = ["a red circle", "Two SQUARES, 3d", "", "zebra quux in a meadow " * 30]
    expected = theirs(texts, padding="max_length", truncation=True, max_length=77).input_ids
    assert np.array_equal(mine(texts), np.array(expected))


def test_text_encoder_is_clip(tokenizer_folder: Path) -> None:
    tokenizer = Tokenizer(tokenizer_folder)
    torch.manual_seed(0)
    mine = TextEncoder(tokenizer.vocabulary, 32, 1, 2).eval()
    theirs = assemble.build_text_encoder(mine.state_dict(), "tiny", tokenizer)
    tokens = torch.from_numpy(tokenizer(["a red circle", ""])).long()
    with torch.no_grad():
        assert torch.allclose(mine(tokens), theirs(tokens).last_hidden_state, atol=1e-5)


def test_noise_schedule_ends_in_noise() -> None:
    signal, noise = noise_schedule()
    assert torch.allclose(signal**2 + noise**2, torch.ones(1000), atol=1e-5)
    assert float(signal[0]) > 0.999
    assert float(signal[-1]) < 0.03


def test_flat_weights_train_and_export() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.SiLU(), nn.Conv2d(8, 3, 1))
    before = {k: v.clone() for k, v in net.state_dict().items()}
    weights = FlatWeights({"net": net}, 1e-2, dtype=torch.float32)
    assert all(torch.equal(v, net.state_dict()[k]) for k, v in before.items())
    x = torch.randn(4, 3, 8, 8)
    losses = []
    for _ in range(30):
        weights.clear()
        loss = (net(x) - x).square().mean()
        loss.backward()
        weights.collect()
        weights.step(1e-2, 0.5)
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
    exported = weights.export("net", torch.float32)
    assert exported.keys() == before.keys()
    assert all(exported[k].shape == before[k].shape for k in before)
    assert torch.allclose(exported["0.weight"], weights.views(weights.average)[[n for n, _ in weights.named].index(
        "net.0.weight")])  # fmt: skip


def test_fillers_keep_the_caption() -> None:
    torch.manual_seed(0)
    begin, end = 98, 99
    tokens = torch.full((64, 77), end)
    tokens[:, 0] = begin
    tokens[:, 1:4] = torch.tensor([90, 91, 92])
    out = train_denoiser.add_fillers(tokens, 0.7, 50, end)
    assert bool((out[:, 0] == begin).all())
    for row in out.tolist():
        at = row.index(90)
        assert row[at : at + 3] == [90, 91, 92]
        assert 1 <= at <= 5
    changed = (out != tokens).any(1).float().mean()
    assert 0.4 < float(changed) < 0.95
    assert torch.equal(train_denoiser.add_fillers(tokens, 0.0, 50, end), tokens)


def test_schedules() -> None:
    assert float(train_denoiser.kind_shares(0.0).sum()) == pytest.approx(1, abs=0.02)
    assert float(train_denoiser.kind_shares(1.0).sum()) == pytest.approx(1, abs=0.02)
    assert len(train_denoiser.EARLY) == len(train_denoiser.LATE) == len(KINDS)
    rates = [train_denoiser.learning_rate(1.0, 10_000, p / 10) for p in range(11)]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] == pytest.approx(0.02)
    assert train_denoiser.learning_rate(1.0, 0, 0.0) < 0.01
    t = train_denoiser.draw_timesteps(1000, torch.device("cpu"))
    assert int(t.min()) >= 0
    assert int(t.max()) <= 999


def test_train_resume_assemble_and_use(shards: Path, tokenizer_folder: Path, vae_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    first = train_denoiser.train(train_denoiser.parse(_arguments(shards, tokenizer_folder, out, "--steps", "4")))
    assert first["step"] == 4
    second = train_denoiser.train(
        train_denoiser.parse(_arguments(shards, tokenizer_folder, out, "--steps", "8", "--resume"))
    )
    assert second["step"] == 8
    assert second["samples"] == 32
    assert load_file(out / "unet.safetensors")["conv_in.weight"].dtype == torch.float16
    model = tmp_path / "model"
    arguments = ["--weights", str(out), "--vae", str(vae_folder), "--tokenizer", str(tokenizer_folder)]
    largest, total = assemble.assemble(assemble.parse([*arguments, "--out", str(model), "--model", "tiny", "--plain"]))
    assert largest <= assemble.LARGEST_FILE
    assert total <= assemble.LARGEST_FOLDER
    from diffusers import AutoPipelineForImage2Image, AutoPipelineForInpainting, AutoPipelineForText2Image
    from PIL import Image

    pipe = AutoPipelineForText2Image.from_pretrained(model, dtype=torch.float32, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    from diffusers import DDIMScheduler

    assert DDIMScheduler.from_config(pipe.scheduler.config).config.clip_sample is False
    image = pipe("a red circle", num_inference_steps=2, guidance_scale=3.0, height=64, width=64).images[0]
    assert image.size == (64, 64)
    start, mask = Image.new("RGB", (64, 64), "white"), Image.new("L", (64, 64), 255)
    again = AutoPipelineForImage2Image.from_pipe(pipe)
    assert again("a bar", image=start, strength=0.9, num_inference_steps=3).images[0].size == (64, 64)
    filled = AutoPipelineForInpainting.from_pipe(pipe)
    done = filled("a bar", image=start, mask_image=mask, height=64, width=64, num_inference_steps=2, strength=1.0)
    assert done.images[0].size == (64, 64)


def test_a_run_can_start_from_the_weights_of_another(shards: Path, tokenizer_folder: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    train_denoiser.train(train_denoiser.parse(_arguments(shards, tokenizer_folder, first, "--steps", "4")))
    begin = ["--steps", "2", "--start-from", str(first), "--learning-rate", "0"]
    record = train_denoiser.train(train_denoiser.parse(_arguments(shards, tokenizer_folder, second, *begin)))
    assert record["step"] == 2
    for name in ("unet", "text_encoder"):
        before, after = (load_file(folder / f"{name}.safetensors") for folder in (first, second))
        assert all(torch.equal(before[key], after[key]) for key in before)
    assert str(tmp_path) not in json.dumps(record)


def test_harden_keeps_plain_captions(pack_folder: Path, tokenizer_folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    tokenizer = Tokenizer(tokenizer_folder)
    torch.manual_seed(0)
    encoder = TextEncoder(tokenizer.vocabulary, 32, 1, 2)
    save_file(
        {k: v.half().contiguous() for k, v in encoder.state_dict().items()}, tmp_path / "text_encoder.safetensors"
    )
    rng = np.random.default_rng(0)
    pack = Pack.load(pack_folder)
    fillers = harden_text_encoder.filler_tokens(pack, tokenizer)
    captions = ["a circle", "square shape"] * 8
    known, text, place = harden_text_encoder.make_batch(captions, tokenizer, fillers, rng)
    for caption, k, s, p in zip(captions, known, text, place, strict=True):
        ids = tokenizer.fast.encode(caption, add_special_tokens=False).ids
        starts = [i for i in range(1, 40) if s[i : i + len(ids)].tolist() == ids]
        assert any(k[p[i : i + len(ids)]].tolist() == ids for i in starts)  # every word is held against itself
    arguments = ["--weights", str(tmp_path), "--data", str(pack_folder), "--tokenizer", str(tokenizer_folder),
                 "--out", str(tmp_path), "--model", "tiny", "--steps", "30", "--batch", "16", "--threads", "1",
                 "--device", "cpu"]  # fmt: skip
    assert harden_text_encoder.harden(harden_text_encoder.parse(arguments)) < 1.0


def test_vae_learns_and_folding_changes_no_reconstruction(pack_folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    vae = train_vae.build_vae((8, 8, 8, 8), groups=4).eval()
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        z = train_vae.encode_mean(vae, x)
        before = vae.decode(z).sample
        mean, deviation = z.mean((0, 2, 3)), z.std((0, 2, 3))
        train_vae.fold_statistics(vae, mean, deviation)
        folded = train_vae.encode_mean(vae, x)
        assert torch.allclose(folded.mean((0, 2, 3)), torch.zeros(4), atol=1e-3)
        assert torch.allclose(folded.std((0, 2, 3)), torch.ones(4), atol=1e-3)
        assert torch.allclose(vae.decode(folded).sample, before, atol=1e-3)
    arguments = ["--data", str(pack_folder), "--out", str(tmp_path), "--steps", "4", "--batch", "4", "--pool", "8",
                 "--channels", "8", "8", "8", "8", "--groups", "4", "--discriminator", "8",
                 "--device", "cpu"]  # fmt: skip
    record = train_vae.train(train_vae.parse(arguments))
    assert record["steps"] == 4
    assert record["psnr_db"] > 0
    assert json.loads((tmp_path / "vae_training.json").read_text()) == record
