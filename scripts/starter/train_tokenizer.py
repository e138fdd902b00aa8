"""Step 3: train the tokenizer: byte-level BPE in CLIP's format, on the words of the captions.

Byte-pair encoding after Sennrich et al. 2016 (arXiv:1508.07909), normalisation and splitting as in CLIP
(arXiv:2103.00020), so that `transformers.CLIPTokenizer` loads the result.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from .models import TOKENS
from .pack import Pack
from .recipe_sampler import RecipeSampler

BEGIN, END = "<|startoftext|>", "<|endoftext|>"
SPLIT = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def learn_merges(texts: list[str], size: int) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary (token to id, in CLIP's order: bytes, bytes at a word's end, merges, specials) and merges."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token=END))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=size - 2 - 256, special_tokens=[], initial_alphabet=alphabet, end_of_word_suffix="</w>",
        min_frequency=2, show_progress=False,
    )  # fmt: skip
    tokenizer.train_from_iterator(texts, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    pairs = [tuple(m.split(" ")) if isinstance(m, str) else tuple(m) for m in model["merges"]]
    vocabulary = {token: i for i, token in enumerate([*alphabet, *(b + "</w>" for b in alphabet)])}
    merges = []
    for left, right in pairs:
        if len(vocabulary) >= size - 2:
            break
        vocabulary.setdefault(left + right, len(vocabulary))
        merges.append((left, right))
    vocabulary[BEGIN] = len(vocabulary)
    vocabulary[END] = len(vocabulary)
    return vocabulary, merges


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder of the packed art")
    parser.add_argument("--out", required=True, help="folder of the tokenizer")
    parser.add_argument("--size", type=int, default=4096, help="largest size of the vocabulary")
    parser.add_argument("--captions", type=int, default=30000, help="random compositions whose captions are read")
    parser.add_argument("--seed", type=int, default=11)
    args = parser.parse_args(argv)
    from transformers import CLIPTokenizer

    pack = Pack.load(args.data)
    texts = [c for captions in RecipeSampler(pack, args.seed).batch(args.captions).captions for c in captions]
    texts += [name for concept in pack.concepts for name in concept["names"] + concept["kws"]] * 3
    vocabulary, merges = learn_merges(texts, args.size)
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=TOKENS).save_pretrained(out)
    (out / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    lines = "\n".join(" ".join(m) for m in merges)
    (out / "merges.txt").write_text(f"#version: 0.2\n{lines}\n", encoding="utf-8")
    longest = max(len(ids) for ids in CLIPTokenizer.from_pretrained(out)(texts[:5000]).input_ids)
    print(f"{out}: {len(vocabulary)} tokens, {len(merges)} merges, longest of 5000 captions {longest} tokens")


if __name__ == "__main__":
    main()
