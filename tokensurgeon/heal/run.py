"""The training loop, on accelerate."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from tokensurgeon.alignment import Provenance, align
from tokensurgeon.checkpoint.staging import check_target
from tokensurgeon.errors import InputError, MissingDependencyError
from tokensurgeon.evaluation.model import LoadedModel, load_model
from tokensurgeon.evaluation.score import score_text
from tokensurgeon.evaluation.texts import load_texts, python_text, split_bytes
from tokensurgeon.heal.batches import Piece, collate, in_order, read_pieces
from tokensurgeon.heal.objective import Objective
from tokensurgeon.heal.options import HealOptions
from tokensurgeon.heal.rows import TrainedRows, put_in_front
from tokensurgeon.heal.spans import first_shared
from tokensurgeon.heal.write import write_healed
from tokensurgeon.pair import open_side

__all__ = ["HealReport", "heal"]

_PYTHON_BYTES = 1 << 20
_HELD_OUT = 8192
"""Bytes of the text that are not trained on, but scored."""
_EVALUATIONS = 5
_WARM_UP = 0.05
_SAVE_S = 60.0


@dataclass(slots=True)
class HealReport:
    """How it went.

    Attributes:
        out: The written model; None on processes that do not write.
        steps: Updates made.
        tokens: Tokens of the new tokenization read for them.
        seconds: Training and evaluating.
        rows: Rows that were trained.
        curve: One entry per evaluation: ``step``, ``minutes``, ``held_out`` bits per byte, and the last losses.
        best: The entry whose state was kept.
    """

    out: Path | None = None
    steps: int = 0
    tokens: int = 0
    seconds: float = 0.0
    rows: int = 0
    curve: list[dict[str, float]] = field(default_factory=list)
    best: dict[str, float] = field(default_factory=dict)


Progress = Callable[[float, HealReport, dict[str, float]], None]


class _Student(torch.nn.Module):
    """The model, as something that gives logits and what its head was asked about."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        return logits, self.model.get_output_embeddings().seen


def heal(
    model: str,
    teacher: str,
    out: Path | str,
    options: HealOptions | None = None,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> HealReport:
    """Train some rows of a transplanted model, or more, to do as its base does.

    Under ``accelerate launch`` all processes must call this; the first one writes.

    Args:
        model: The transplanted model.
        teacher: The model that it was made from.
        out: Output directory.
        options: See `HealOptions`.
        overwrite: Replace an output that exists.
        progress: Called with (share done, report so far, last losses).

    Raises:
        InputError: If the two do not belong together, or the text is too short.
        VerificationError: If the written model breaks an invariant; nothing is left behind.
    """
    options = options or HealOptions()
    target = Path(out).expanduser().absolute()
    check_target(target, overwrite, (model, teacher))
    try:
        from accelerate import Accelerator
        from accelerate.utils import set_seed
    except ImportError as error:
        raise MissingDependencyError("accelerate", "heal", "healing") from error
    accelerator = Accelerator(mixed_precision=_precision())
    set_seed(options.seed)
    right, left = open_side(model, "all"), open_side(teacher, "all")
    student, master = (load_model(side.directory, accelerator.device) for side in (right, left))
    if _width(student) != _width(master):
        raise InputError(
            f"{model} is {_width(student)} wide, {teacher} {_width(master)}: it is not what it was made from"
        )
    rows = student.model.get_output_embeddings().weight.shape[0]
    plan = align(left.vocabulary, right.vocabulary, n_rows=rows)
    train, held_out = _texts(options)
    pieces = read_pieces(train, student, master, (right.vocabulary, left.vocabulary))
    wanted = (Provenance.RECONSTRUCTED,) if options.rows == "new" else tuple(Provenance)
    ids = _used(pieces, plan.ids(*wanted).tolist(), rows)
    if not len(ids) and options.lora is None:
        raise InputError(
            f"the text uses none of the {options.rows} tokens: there is nothing to train. Give more --text"
        )

    trained = TrainedRows.of(student.model, ids.to(accelerator.device))  # in their own precision
    for loaded in (student, master):
        _freeze(loaded.model, accelerator.mixed_precision)
    if options.lora is not None:
        _add_lora(student.model, options.lora)
    put_in_front(student.model, trained)
    loop = _Loop(accelerator, options, student, master, trained, held_out)
    classes = first_shared(left.vocabulary, right.vocabulary, plan)
    loop.train(pieces, classes, _state_path(target), _key(model, teacher, options), progress)
    if accelerator.is_main_process:
        loop.report.out = write_healed(
            target, right, left, loop.best_rows(trained), loop.best_body(), options, loop.report, overwrite=overwrite
        )
        shutil.rmtree(_state_path(target).parent, ignore_errors=True)
    accelerator.wait_for_everyone()
    return loop.report


class _Loop:
    """State of a training."""

    def __init__(
        self,
        accelerator: Any,
        options: HealOptions,
        student: LoadedModel,
        teacher: LoadedModel,
        trained: dict[str, TrainedRows],
        held_out: Sequence[str],
    ) -> None:
        self.accelerator, self.options, self.student, self.teacher = accelerator, options, student, teacher
        self.held_out = held_out
        first = trained["embedding"].rows
        scale = float(first.detach().square().mean().sqrt()) if len(first) else 1.0
        own = [t.rows for t in trained.values()]
        lora = [p for p in student.model.parameters() if p.requires_grad and all(p is not q for q in own)]
        if not len(first):
            own[0].requires_grad_(False)
        groups = [(own, options.learning_rate * scale)] if len(first) else []
        groups += [(lora, options.lora_learning_rate)] if lora else []
        self.rates = [rate for _, rate in groups]
        optimizer = torch.optim.AdamW(
            [{"params": some, "lr": rate} for some, rate in groups], betas=(0.9, 0.95), weight_decay=0.0
        )
        self.module, self.optimizer = accelerator.prepare(_Student(student.model), optimizer)
        self.report = HealReport(rows=len(first))
        self.best: dict[str, torch.Tensor] = {}

    def parameters(self) -> dict[str, torch.Tensor]:
        """What is trained, by name."""
        return {name: p for name, p in self.student.model.named_parameters() if p.requires_grad}

    def train(
        self,
        pieces: list[Piece],
        classes: tuple[torch.Tensor, torch.Tensor],
        state: Path,
        key: str,
        progress: Progress | None,
    ) -> None:
        """Go on from a saved state, or begin; to the end of the steps or minutes."""
        options, device = self.options, self.accelerator.device
        world = self.accelerator.num_processes
        objective = Objective(self._variance(pieces), classes[0].to(device), classes[1].to(device))
        begun, saved = time.perf_counter() - self._resume(state, key), time.perf_counter()
        if not self.report.curve:
            self._evaluate(begun, {})
        order = in_order(len(pieces), (self.report.steps + 100_000) * options.batch * world, options.seed)
        self.student.model.train()
        losses: dict[str, float] = {}
        while (share := self._share(begun)) < 1:
            if time.perf_counter() - saved > _SAVE_S:
                self._save(state, key)
                saved = time.perf_counter()
            factor = min(1.0, share / _WARM_UP) if share < _WARM_UP else 1 - (share - _WARM_UP) / (1 - _WARM_UP)
            for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
                group["lr"] = rate * max(factor, 0.01)
            start = (self.report.steps * world + self.accelerator.process_index) * options.batch
            some = [pieces[i] for i in order[start : start + options.batch]]
            batch = {name: tensor.to(device) for name, tensor in collate(some).items()}
            losses = self._step(batch, objective)
            self.report.steps += 1
            self.report.tokens += world * sum(len(piece.student) for piece in some)
            self.report.seconds = time.perf_counter() - begun
            if progress is not None:
                progress(share, self.report, losses)
            if share * _EVALUATIONS >= len(self.report.curve):
                self._evaluate(begun, losses)
        self._evaluate(begun, losses)

    def _step(self, batch: dict[str, torch.Tensor], objective: Objective) -> dict[str, float]:
        seen: list[torch.Tensor] = []

        def narrow(_: Any, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
            """The teacher's head is the largest product of all, and asked at some positions only."""
            seen.append(inputs[0])
            piece, _, there = objective.compared(batch)
            return (inputs[0][piece, there][None],)

        with torch.no_grad():
            handle = self.teacher.model.get_output_embeddings().register_forward_pre_hook(narrow)
            logits = self.teacher.model(
                input_ids=batch["teacher"], attention_mask=batch["teacher_mask"], use_cache=False
            ).logits[0]
            handle.remove()
        terms = objective(batch, self.module(batch["student"], batch["student_mask"]), (logits, seen[0]))
        self.accelerator.backward(terms["loss"])
        self.accelerator.clip_grad_norm_([p for p in self.module.parameters() if p.requires_grad], 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return {name: float(term.detach()) for name, term in terms.items()}

    def _share(self, begun: float) -> float:
        """Of the steps or the time; all processes go by the first one's clock."""
        if self.options.steps is not None:
            return self.report.steps / self.options.steps
        share = torch.tensor((time.perf_counter() - begun) / (60 * self.options.minutes))
        if self.accelerator.num_processes > 1:
            from accelerate.utils import broadcast

            share = broadcast(share.to(self.accelerator.device)).cpu()
        return float(share)

    def _variance(self, pieces: list[Piece]) -> float:
        states = []
        head = self.teacher.model.get_output_embeddings()
        handle = head.register_forward_pre_hook(lambda _, inputs: states.append(inputs[0][0].float()))
        with torch.no_grad():
            for piece in pieces[:4]:
                self.teacher.model(input_ids=torch.tensor([piece.teacher], device=self.accelerator.device))
        handle.remove()
        return float(torch.cat(states)[1:].var(dim=0).mean())

    def _evaluate(self, begun: float, losses: dict[str, float]) -> None:
        """Score the held-out text and keep the state if it is the best."""
        model = self.student.model
        model.eval()
        scored = score_text(model, self.student.encode, self.student.prefix, self.held_out)
        model.train()
        seconds = time.perf_counter() - begun
        entry = {
            "step": self.report.steps, "minutes": round(seconds / 60, 3), "held_out": scored.bits_per_byte, **losses,
        }  # fmt: skip
        self.report.curve.append(entry)
        if not self.report.best or entry["held_out"] < self.report.best["held_out"]:
            self.report.best = entry
            self.best = {name: p.detach().clone() for name, p in self.parameters().items()}
        self.report.seconds = seconds

    def _save(self, path: Path, key: str) -> None:
        if not self.accelerator.is_main_process:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        work = path.with_suffix(".new")
        content = {
            "key": key,
            "report": {name: getattr(self.report, name) for name in ("steps", "tokens", "seconds", "curve", "best")},
            "best": self.best,
            "parameters": {name: p.detach() for name, p in self.parameters().items()},
            "optimizer": self.optimizer.state_dict(),
        }
        torch.save(content, work)
        work.replace(path)

    def _resume(self, path: Path, key: str) -> float:
        """Load a saved state of the same run; the seconds that it had taken."""
        if not path.is_file():
            return 0.0
        content = torch.load(path, map_location=self.accelerator.device, weights_only=True)
        if content["key"] != key:
            return 0.0
        for name, value in content["report"].items():
            setattr(self.report, name, value)
        self.best = content["best"]
        self.optimizer.load_state_dict(content["optimizer"])
        with torch.no_grad():
            for name, parameter in self.parameters().items():
                parameter.copy_(content["parameters"][name])
        return float(self.report.seconds)

    def best_rows(self, trained: dict[str, TrainedRows]) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """Ids and rows of each matrix in the best state."""
        own = {id(t.rows): name for name, t in trained.items()}
        found = {}
        for name, parameter in self.student.model.named_parameters():
            if id(parameter) in own and name in self.best:
                matrix = own[id(parameter)]
                found[matrix] = (trained[matrix].ids.cpu(), self.best[name].cpu())
        return found

    def best_body(self) -> dict[str, torch.Tensor]:
        """What to add to the body's weights, by the model's names, in the best state."""
        if self.options.lora is None:
            return {}
        with torch.no_grad():
            for name, parameter in self.parameters().items():
                parameter.copy_(self.best[name])
            return {
                f"{name}.weight": module.get_delta_weight("default").cpu()
                for name, module in self.student.model.named_modules()
                if hasattr(module, "get_delta_weight")
            }


def _freeze(model: Any, precision: str) -> None:
    """Let nothing be trained, and store it in bfloat16 where that is what is computed in."""
    for parameter in model.parameters():
        parameter.requires_grad_(False)
        if precision == "bf16":
            parameter.data = parameter.data.to(torch.bfloat16)


def _precision() -> str | None:
    """What accelerate was told, or bfloat16 where the device computes in it."""
    if os.environ.get("ACCELERATE_MIXED_PRECISION"):
        return None
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported() else None
    return "bf16" if torch.ops.mkldnn._is_mkldnn_bf16_supported() else None


def _width(loaded: LoadedModel) -> int:
    return int(loaded.model.get_input_embeddings().weight.shape[1])


def _texts(options: HealOptions) -> tuple[list[str], list[str]]:
    """Pieces to train on and to hold out: every so many, from all over the text."""
    paths = [Path(name) for name in options.text]
    texts = load_texts(paths) if paths else {str(i): python_text(_PYTHON_BYTES, i) for i in range(3)}
    pieces = [piece for text in texts.values() for piece in split_bytes(text, options.piece)]
    n = max(1, min(_HELD_OUT // options.piece, len(pieces) // 4))
    if len(pieces) < 4:
        raise InputError(
            f"the text has {len(pieces)} pieces of {options.piece} bytes, and 4 are needed. Give more --text"
        )
    held = set(range(len(pieces) // (2 * n), len(pieces), len(pieces) // n))
    return [p for i, p in enumerate(pieces) if i not in held], [pieces[i] for i in sorted(held)]


def _used(pieces: Sequence[Piece], allowed: Sequence[int], rows: int) -> torch.Tensor:
    known = set(allowed)
    used = {i for piece in pieces for i in piece.student}
    return torch.tensor(sorted(i for i in used & known if i < rows), dtype=torch.int64)


def _add_lora(model: Any, rank: int) -> None:
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise MissingDependencyError("peft", "heal", "--lora") from error
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear"), model)


def _state_path(target: Path) -> Path:
    return target.with_name(f".{target.name}.healing") / "state.pt"


def _key(model: str, teacher: str, options: HealOptions) -> str:
    """What must be the same for a saved state to be gone on from; the end may be put off."""
    settings = {k: v for k, v in options.as_dict().items() if k not in ("steps", "minutes")}
    return hashlib.sha256(json.dumps([model, teacher, settings], sort_keys=True).encode()).hexdigest()
