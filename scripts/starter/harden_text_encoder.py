"""Step 6b: teach a trained text encoder to pass over words that it does not know, without touching the denoiser.

Self-distillation (after Hinton et al. 2015, arXiv:1503.02531): the teacher, a frozen copy, reads a caption with a known
opening ("a picture of a cat"); the student reads the same caption with random tokens instead of that opening and
sometimes behind the caption. Its states must equal the teacher's, place by place. Half of every batch are plain
captions with equal text for both, so that nothing known is forgotten. Tokens of concept names, colours and styles are
never used as filler. No pictures and no denoiser are needed, so minutes on a CPU are enough.

`train_denoiser --filler` does the same during training; this step is for weights trained without it.
"""

from __future__ import annotations

import argparse
import copy
import shutil
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from .captions import BACKGROUND_COLOURS, OBJECT_COLOURS, STYLE_WORDS, with_article
from .models import TEXT_ENCODERS, TOKENS, TextEncoder, Tokenizer
from .pack import Pack
from .recipe_sampler import RecipeSampler

#: An opening that the denoiser was trained to pass over. Always the same one: the student cannot know which it was.
KNOWN_OPENING = "a picture of"
#: Everyday English words that name nothing; half of the fillers are random runs of these.
FUNCTION_WORDS = str.split(
    "i me my we our you your it its he she they this that these those some any is are was were be been do does "
    "did have has had will would could should can may might must to of for at from by about into as if so than "
    "then now just very really please want need like get give got let say tell make made go come see here "
    "there what which who how"
)


def filler_tokens(pack: Pack, tokenizer: Tokenizer) -> np.ndarray:
    """Ids of tokens that mean nothing to the model: not in a concept's name, colour, style word or digit."""
    known = [name for concept in pack.concepts for name in concept["names"]]
    known += [*BACKGROUND_COLOURS, *OBJECT_COLOURS, *(w for group in STYLE_WORDS.values() for w in group)]
    known += ["two three small tiny big large and with on in the a an", "pixel art line art black and white silhouette"]
    used = set(tokenizer(known).ravel().tolist())
    pieces = {i: tokenizer.fast.id_to_token(i) for i in range(tokenizer.vocabulary - 2)}
    # Pieces of words ("sho", "ould") may be in names too; as filler they stay, whole words of names do not.
    return np.array([i for i, piece in pieces.items() if i not in used or not piece.endswith("</w>")], np.int64)


def make_batch(
    captions: list[str], tokenizer: Tokenizer, fillers: np.ndarray, rng: np.random.Generator, length: int = TOKENS
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Teacher tokens, student tokens and, for each place of the student, the teacher's place; int64 ``[n, length]``.

    The encoder is causal, so a shorter ``length`` gives the same states at the places that are left.
    """
    n = len(captions)
    plain = rng.random(n) < 0.5
    small = [tokenizer.fast.encode(word, add_special_tokens=False).ids for word in FUNCTION_WORDS]
    head = tokenizer.fast.encode(KNOWN_OPENING, add_special_tokens=False).ids
    bodies = tokenizer.fast.encode_batch(captions, add_special_tokens=False)
    teacher = np.full((n, length), tokenizer.end, np.int64)
    student = teacher.copy()
    place = np.tile(np.arange(length), (n, 1))
    for i in range(n):
        body = bodies[i].ids[: length - 16]
        if plain[i]:
            row = [tokenizer.begin, *body]
            teacher[i, : len(row)] = student[i, : len(row)] = row
            continue
        row = [tokenizer.begin, *head, *body]
        teacher[i, : len(row)] = row
        before, behind = int(rng.integers(1, 10)), int(rng.integers(0, 4))
        if rng.random() < 0.15:
            before = 0
        if rng.random() < 0.5:
            run = [t for k in rng.integers(0, len(small), before) for t in small[k]]
            around = [*run[:before], *rng.choice(fillers, behind)]
        else:
            around = [*rng.choice(fillers, before), *rng.choice(fillers, behind)]
        mine = [*around[:before], *body, *around[before:]]
        student[i, 0] = tokenizer.begin
        student[i, 1 : 1 + len(mine)] = mine
        place[i, 1 : 1 + before] = np.minimum(np.arange(1, 1 + before), len(head))
        place[i, 1 + before : 1 + before + len(body)] = np.arange(len(body)) + 1 + len(head)
        place[i, 1 + before + len(body) :] = np.maximum(place[i, 1 + before + len(body) :], len(row))
    return teacher, student, place


def read_weights(folder: str | Path) -> dict[str, torch.Tensor]:
    """The text encoder's weights in float32."""
    return {k: v.float() for k, v in load_file(Path(folder) / "text_encoder.safetensors").items()}


def harden(args: argparse.Namespace) -> float:
    """Fine-tune; returns the last error relative to the variance of the teacher's states."""
    if args.threads:
        torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    tokenizer, pack = Tokenizer(args.tokenizer), Pack.load(args.data)
    student = TextEncoder(tokenizer.vocabulary, **TEXT_ENCODERS[args.model])
    student.load_state_dict(read_weights(args.weights))
    student = student.to(device)
    teacher = copy.deepcopy(student).requires_grad_(False)
    if args.resume and (Path(args.out) / "text_encoder.safetensors").exists():
        student.load_state_dict(read_weights(args.out))
    optimizer = torch.optim.AdamW(student.parameters(), lr=args.learning_rate, betas=(0.9, 0.99), weight_decay=0.0)
    sampler, rng = RecipeSampler(pack, args.seed), np.random.default_rng(args.seed)
    torch.manual_seed(args.seed)
    fillers = filler_tokens(pack, tokenizer)
    began, step, error, captions = time.monotonic(), 0, 0.0, []
    while True:
        progress = step / args.steps if args.steps else (time.monotonic() - began) / (60 * args.minutes)
        if progress >= 1:
            break
        if len(captions) < args.batch:
            captions = [with_article(c["names"][0]) for c in pack.concepts]
            captions += [c for row in sampler.batch(600).captions for c in row[:3]]
            rng.shuffle(captions)
        batch, captions = captions[: args.batch], captions[args.batch :]
        length = TOKENS if step % 10 == 0 else 32  # mostly the places that captions reach: a third of the work
        known, text, place = (
            torch.from_numpy(a).to(device) for a in make_batch(batch, tokenizer, fillers, rng, length)
        )
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=args.bf16):
            states = teacher(known).float()
            target = states.gather(1, place[:, :, None].expand_as(states))
        with torch.autocast(device.type, torch.bfloat16, enabled=args.bf16):
            answer = student(text)
        difference = (answer.float() - target).square().mean() / states.var()
        for group in optimizer.param_groups:
            group["lr"] = args.learning_rate * min(1.0, (step + 1) / 50) * max(0.02, 1 - progress)
        optimizer.zero_grad(set_to_none=True)
        difference.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        step += 1
        error = float(difference.detach()) if step == 1 else 0.98 * error + 0.02 * float(difference.detach())
        if step % args.log_every == 0:
            print(f"[harden] step {step} relative error {error:.4f} {time.monotonic() - began:.0f} s", flush=True)
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    state = {k: v.detach().half().cpu().contiguous() for k, v in student.state_dict().items()}
    save_file(state, out / "text_encoder.safetensors")
    if out.resolve() != Path(args.weights).resolve():
        shutil.copyfile(Path(args.weights) / "unet.safetensors", out / "unet.safetensors")
    return error


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True, help="folder with unet.safetensors and text_encoder.safetensors")
    parser.add_argument("--data", required=True, help="folder of the packed art (only its words are read)")
    parser.add_argument("--tokenizer", required=True, help="folder of the tokenizer")
    parser.add_argument("--out", required=True, help="folder for the new weights")
    parser.add_argument("--model", default="base", choices=sorted(TEXT_ENCODERS))
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--steps", type=int, default=0, help="length in steps, instead of minutes")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=3e-4)
    parser.add_argument("--resume", action="store_true", help="go on from the text encoder in --out")
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=False, help="bfloat16 arithmetic")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--log-every", type=int, default=50)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args(argv)


if __name__ == "__main__":
    print(f"relative error at the end {harden(parse()):.4f}")
