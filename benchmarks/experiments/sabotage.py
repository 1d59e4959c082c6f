"""Which changes of a written model `verify` finds: tiny models, sabotaged one change at a time.

    python -m benchmarks.experiments.sabotage benchmarks/experiments/sabotage.toml

Whoever changes a model can write its digests into the manifest again, and so every change is looked for three times:
by the digests as they were, by the base alone once digests are written again, and by base and donor.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

import tokensurgeon
from benchmarks.common.provenance import provenance
from benchmarks.common.sabotages import Sabotage, sabotages
from benchmarks.common.sabotages_excused import excused
from benchmarks.experiments.architectures import random_model, save
from tokensurgeon import ExtendOptions, HealOptions, InputError, TransplantOptions
from tokensurgeon.checkpoint import Checkpoint, TokenizerFiles
from tokensurgeon.checkpoint.manifest import Manifest
from tokensurgeon.evaluation.texts import python_text
from tokensurgeon.verification.digests import digest_checks, recorded_digests

RESULTS = Path(__file__).parents[1] / "results"
_SPECIAL = ("<pad>", "<bos>", "<eos>")
_UNUSED = tuple(f"<unused{i}>" for i in range(10))


class Made(NamedTuple):
    """An output, what it was made from, and why it is not run; ``donor`` is None where no other model took part."""

    out: Path
    base: Path
    donor: Path | None = None
    unrun: str | None = None


def main(path: Path, results: Path = RESULTS) -> None:
    """Run the experiment file and write its result, kind by kind."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    experiment = tomllib.loads(path.read_text())
    result: dict[str, Any] = provenance(path.stem) | {"settings": experiment, "kinds": {}, "honest": {}}

    def write() -> None:
        (results / f"{path.stem}.json").write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")

    with prepared(experiment) as (models, work):
        for title, settings in experiment["honest"].items():
            result["honest"][title] = failing(make(settings, models, work / "honest"))
            print(title, result["honest"][title], flush=True)
        for kind in experiment["kinds"]:
            result["kinds"][kind] = measured(experiment, kind, models, work)
            print(kind, flush=True)
            write()


@contextmanager
def prepared(experiment: dict[str, Any]) -> Iterator[tuple[dict[str, Path], Path]]:
    """The tiny models, and room to work in."""
    with tempfile.TemporaryDirectory(prefix="tokensurgeon-sabotage-") as name, remembered_vocabularies():
        yield build(experiment, Path(name) / "models"), Path(name)


def measured(experiment: dict[str, Any], kind: str, models: dict[str, Path], work: Path) -> dict[str, Any]:
    """Which changes of a kind of output are found, and what is wrong with it unchanged."""
    settings = experiment["kinds"][kind]
    made = make(settings, models, work / kind)
    groups = experiment["groups"][settings["groups"]]
    changes = [change for change in (*sabotages(), *excused()) if change.group.split(" of ")[0] in groups]
    return {"honest": failing(made), "caught": caught(made, changes, work / f"{kind}-changed")}


@contextmanager
def remembered_vocabularies() -> Iterator[None]:
    """Which tokens a tokenizer emits is found once for each tokenizer, and not for each of hundreds of models."""
    known: dict[str, Any] = {}
    find = TokenizerFiles.vocabulary

    def vocabulary(files: TokenizerFiles) -> Any:
        key = json.dumps([files.digest(), files.declared, files.chat_template], sort_keys=True)
        if key not in known:
            known[key] = find(files)
        return known[key]

    TokenizerFiles.vocabulary = vocabulary  # type: ignore[method-assign]
    try:
        yield
    finally:
        TokenizerFiles.vocabulary = find  # type: ignore[method-assign]


def build(experiment: dict[str, Any], place: Path) -> dict[str, Path]:
    """The tiny models, by name."""
    made = {}
    for name, settings in experiment["models"].items():
        own = dict(settings)
        kind, seed, donor = own.pop("type"), own.pop("seed"), own.pop("donor", False)
        shard, dtype = own.pop("shard", "5GB"), own.pop("dtype", None)
        tokenizer = _tokenizer(donor)
        model = random_model(own, experiment["sizes"], kind, len(tokenizer) + (22 if donor else 0))
        with torch.no_grad():
            generator = torch.Generator().manual_seed(seed)
            for parameter in model.parameters():
                parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
        if dtype:
            model = model.to(getattr(torch, dtype))
        ids = {role: getattr(tokenizer, f"{role}_token_id") for role in ("bos", "eos", "pad")}
        save(model, ids, place / name)
        if shard != "5GB":
            shutil.rmtree(place / name)
            model.save_pretrained(place / name, max_shard_size=shard)
        tokenizer.save_pretrained(place / name)
        (place / name / "NOTICE.txt").write_text("made for a test\n")
        made[name] = place / name
    return made


def _tokenizer(donor: bool) -> Any:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.ByteLevel(add_prefix_space=False),
            *([] if donor else [pre_tokenizers.Digits(individual_digits=True)]),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=900 if donor else 700, special_tokens=[*_SPECIAL, *(_UNUSED if donor else ())], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    text = python_text(200_000) + " 12 345 1984" * 500 if donor else python_text(60_000)
    tokenizer.train_from_iterator(text.splitlines(), trainer)
    pad, bos, eos = _SPECIAL
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=pad, bos_token=bos, eos_token=eos)


def make(settings: dict[str, Any], models: dict[str, Path], place: Path) -> Made:
    """An output of a command, in a new directory."""
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    (place / "text.txt").write_text(python_text(30_000))
    base, donor, out, command = models[settings["base"]], models["donor"], place / "out", settings.get("command")
    text = (str(place / "text.txt"),)
    if command == "trim":
        tokensurgeon.trim(str(base), text, out)
        return Made(out, base)
    if command == "extend":
        tokensurgeon.extend(str(base), out, ExtendOptions(text=text, add=20, special={"<think>": "think"}))
        return Made(out, base)
    if command == "resize":
        tokensurgeon.resize(str(base), out, pad_to_multiple_of=128)
        return Made(out, base)
    options = TransplantOptions(k=8) if command else TransplantOptions(**settings["options"])
    tokensurgeon.transplant(str(base), str(donor), place / "first" if command else out, options)
    if command == "revert":
        tokensurgeon.revert(str(place / "first"), str(base), out)
        return Made(out, place / "first", base)
    if command == "heal":
        tokensurgeon.heal(str(place / "first"), str(base), out, HealOptions(text=text, steps=2, lora=2))
    return Made(out, base, donor, "--no-forward" if options.forward is False else None)


def failing(made: Made) -> list[str]:
    """Checks that an output fails, by base and donor, or by the base alone; none, if it is honest."""
    found = tokensurgeon.verify(made.out, made.base, unrun=made.unrun)
    if made.donor is not None:
        found += tokensurgeon.verify(made.out, made.base, made.donor, unrun=made.unrun)
    return sorted({f"{check.name}: {check.detail}" for check in found if not check.ok})


def caught(made: Made, changes: Iterable[Sabotage], place: Path) -> dict[str, dict[str, Any]]:
    """By group and name of a change: whether it shows as it is, and which checks find it with new digests."""
    found: dict[str, dict[str, Any]] = {}
    for change in changes:
        copy = Path(shutil.copytree(made.out, place))
        try:
            if change.apply(copy):
                found.setdefault(change.group, {})[change.name] = _caught(copy, made)
        finally:
            shutil.rmtree(place)
    return found


def _caught(copy: Path, made: Made) -> dict[str, Any]:
    base_alone = made._replace(donor=None)
    try:
        manifest = Manifest.of_transplant(copy)
        assert manifest is not None
        shown = any(not check.ok for check in digest_checks(copy, Checkpoint.open(copy), manifest))
        shown = shown or bool(_names(copy, base_alone))
        again = replace(manifest, content=manifest.content | {"sha256": recorded_digests(copy)})
        again.write(copy)
    except InputError:
        shown = True
    by_base = _names(copy, base_alone)
    by_donor = _names(copy, made._replace(unrun="run already")) if made.donor is not None and not by_base else []
    return {"digests": shown, "base": by_base, "donor": by_donor}


def _names(copy: Path, made: Made) -> list[str]:
    try:
        checks = tokensurgeon.verify(copy, made.base, made.donor, unrun=made.unrun)
        return [check.name for check in checks if not check.ok]
    except InputError as error:
        return [f"refused: {str(error).replace(str(copy), 'the model')[:100]}"]
    except Exception as error:  # which must not be: a result to be seen
        return [f"Error: {type(error).__name__}"]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
