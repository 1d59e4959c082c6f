"""Write a model directory as one GGUF file, tensor by tensor."""

from __future__ import annotations

import importlib.util
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tokensurgeon.checkpoint.layout import error_reason, read_config
from tokensurgeon.checkpoint.model import OpenModel
from tokensurgeon.checkpoint.room import refuse_full
from tokensurgeon.checkpoint.staging import check_target, staged
from tokensurgeon.errors import InputError, MissingDependencyError
from tokensurgeon.gguf.architectures import Architecture, find_architecture
from tokensurgeon.gguf.spm import cut_otherwise
from tokensurgeon.gguf.vocabulary import GgufVocabulary, gguf_vocabulary
from tokensurgeon.progress import Progress, Stage

__all__ = ["GGUF_DTYPES", "ExportReport", "check_export", "export_gguf"]

GGUF_DTYPES = ("f32", "f16", "bf16")


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What was written.

    Attributes:
        out: The file.
        architecture: llama.cpp's name.
        tokenizer: ``gpt2`` or ``llama``.
        pre: The pre-tokenizer's name.
        tokens: Rows of the vocabulary.
        tensors: How many.
        dtype: Of matrices; vectors are float32.
        bytes: Of the file.
    """

    out: Path
    architecture: str
    tokenizer: str
    pre: str
    tokens: int
    tensors: int
    dtype: str
    bytes: int


def export_gguf(
    model: str,
    out: Path | str,
    *,
    dtype: str = "f16",
    overwrite: bool = False,
    progress: Progress | None = None,
) -> ExportReport:
    """Write a model as GGUF, for llama.cpp.

    Args:
        model: Directory or hub id.
        out: The ``.gguf`` file.
        dtype: ``f32``, ``f16`` or ``bf16`` for matrices. llama.cpp's ``llama-quantize`` makes smaller ones of it.
        overwrite: Replace a file that exists.
        progress: Called with (stage, tensors done, tensors in all).

    Raises:
        MissingDependencyError: Without the ``gguf`` package.
        InputError: If llama.cpp could not read what would be written; nothing is left behind.

    Example:
        >>> import tokensurgeon
        >>> report = tokensurgeon.export_gguf("base", "base.gguf", dtype="bf16")
        >>> report.architecture, report.tokenizer
        ('llama', 'gpt2')
    """
    if importlib.util.find_spec("gguf") is None:
        raise MissingDependencyError("gguf", "gguf", "export")
    if dtype not in GGUF_DTYPES:
        raise InputError(f"--dtype {dtype!r} must be one of {', '.join(GGUF_DTYPES)}")
    target = Path(out).expanduser().absolute()
    check_target(target, overwrite, (model,), suffix=".gguf", option="--gguf")
    opened, config, architecture, vocabulary, names = check_export(model)
    tensors, width = opened.checkpoint.tensors, 4 if dtype == "f32" else 2
    refuse_full(target, sum(width * math.prod(tensors[name].shape) for name in names), "--gguf")
    with staged(target, overwrite, suffix=".gguf", option="--gguf") as work:
        _write(work, opened, dtype, architecture, config, names, vocabulary, progress)
    return ExportReport(
        target, architecture.name, vocabulary.model, vocabulary.pre or "", opened.layout.rows, len(names), dtype,
        target.stat().st_size,
    )  # fmt: skip


def check_export(model: str) -> tuple[OpenModel, Any, Architecture, GgufVocabulary, dict[str, str]]:
    """The model, its config, and what becomes of both and of the tensors' names.

    Raises:
        InputError: If llama.cpp could not read what `export_gguf` would write.
    """
    opened = OpenModel.open(model)
    config = _config(opened.directory)
    architecture = find_architecture(config)
    vocabulary = gguf_vocabulary(opened.tokenizer, opened.layout.rows)
    _refuse(model, opened, config, vocabulary)
    return opened, config, architecture, vocabulary, _tensor_names(opened, architecture, config)


def _config(directory: Path) -> Any:
    from transformers import AutoConfig

    read_config(directory)  # refuses what cannot be, in plainer words
    try:
        return AutoConfig.from_pretrained(directory, trust_remote_code=False).get_text_config()
    except Exception as error:  # whatever a config class raises at values that it did not expect
        path = directory / "config.json"
        raise InputError(f"{path}: transformers cannot read it ({error_reason(error)})") from error


def _refuse(model: str, opened: OpenModel, config: Any, vocabulary: GgufVocabulary) -> None:
    if getattr(config, "quantization_config", None):
        raise InputError(f"{model} is quantised; export the model that it was made from")
    if config.vocab_size != (rows := opened.layout.rows):
        raise InputError(f"{model}: config.json has vocab_size {config.vocab_size}, the embedding {rows} rows")
    if vocabulary.pre is None:
        raise InputError(
            f"{model}: llama.cpp has no pre-tokenizer like its tokenizer's, and would cut text otherwise. "
            "Choose a donor that llama.cpp knows"
        )
    if vocabulary.missing_bytes():
        raise InputError(f"{model}: {vocabulary.missing_bytes()} of the 256 byte tokens <0x00> to <0xFF> are missing")
    repeated = vocabulary.repeated()
    if repeated:
        text = vocabulary.texts[repeated[0]]
        raise InputError(f"{model}: id {repeated[0]} has the text {text!r} of another; llama.cpp needs distinct ones")
    joined = cut_otherwise(opened.tokenizer, vocabulary)
    if joined is not None:
        raise InputError(
            f"{model}: its merges are not those of a SentencePiece vocabulary, and llama.cpp would join {joined!r} "
            "otherwise. Choose a donor with a SentencePiece or byte-level tokenizer"
        )


def _tensor_names(model: OpenModel, architecture: Architecture, config: Any) -> dict[str, str]:
    """Names in the checkpoint to names in the GGUF file, in file order."""
    import gguf

    kind = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture.name)
    table = gguf.get_tensor_name_map(kind, config.num_hidden_layers)
    names: dict[str, str] = {}
    for name in model.checkpoint.tensors:
        if name in model.layout.stale or name.endswith("rotary_emb.inv_freq"):
            continue
        found = table.get_name(
            name if name != model.layout.head else "lm_head.weight", try_suffixes=(".weight", ".bias")
        )
        if found is None:
            raise InputError(
                f"{model.directory}: llama.cpp's architecture {architecture.name!r} has no tensor for {name}"
            )
        names[name] = found
    return names


def _write(
    path: Path,
    model: OpenModel,
    dtype: str,
    architecture: Architecture,
    config: Any,
    names: dict[str, str],
    vocabulary: GgufVocabulary,
    progress: Progress | None,
) -> None:
    import gguf

    kinds = {
        "f32": (gguf.GGMLQuantizationType.F32, gguf.LlamaFileType.ALL_F32),
        "f16": (gguf.GGMLQuantizationType.F16, gguf.LlamaFileType.MOSTLY_F16),
        "bf16": (gguf.GGMLQuantizationType.BF16, gguf.LlamaFileType.MOSTLY_BF16),
    }
    matrices, file_type = kinds[dtype]
    writer = gguf.GGUFWriter(path, architecture.name)
    writer.add_name(Path(model.name).name)
    writer.add_file_type(file_type)
    for key, value in architecture.settings(config).items():
        add = {str: writer.add_string, float: writer.add_float32, int: writer.add_uint32}[type(value)]
        add(f"{architecture.name}.{key}", value)
    _add_vocabulary(writer, vocabulary, model.tokenizer.chat_template)
    factors = architecture.rope_factors(config)
    if factors is not None:
        writer.add_tensor_info("rope_freqs.weight", factors.shape, np.dtype(np.float32), factors.nbytes)
    stored = {}
    for name, new in names.items():
        shape = model.checkpoint.tensors[name].shape
        stored[name] = matrices if len(shape) > 1 else gguf.GGMLQuantizationType.F32
        size = int(np.prod(shape)) * (4 if stored[name] == gguf.GGMLQuantizationType.F32 else 2)
        raw = np.uint8 if stored[name] == gguf.GGMLQuantizationType.BF16 else np.float32
        as_stored = shape if raw is np.float32 else (*shape[:-1], shape[-1] * 2)
        writer.add_tensor_info(new, as_stored, np.dtype(raw), size, raw_dtype=stored[name])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    if factors is not None:
        writer.write_tensor_data(factors.numpy())
    for done, name in enumerate(names):
        content = architecture.change(name, model.checkpoint.read(name), config).float().numpy()
        writer.write_tensor_data(np.ascontiguousarray(gguf.quants.quantize(content, stored[name])))
        if progress is not None:
            progress(Stage.TENSORS, done + 1, len(names))
    writer.close()


def _add_vocabulary(writer: Any, vocabulary: GgufVocabulary, chat_template: str | None) -> None:
    writer.add_tokenizer_model(vocabulary.model)
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list([text.encode() for text in vocabulary.texts])
    writer.add_token_types(vocabulary.types)
    if vocabulary.scores is not None:
        writer.add_token_scores(vocabulary.scores)
        writer.add_add_space_prefix(vocabulary.add_space_prefix)
    if vocabulary.merges is not None:
        writer.add_token_merges([merge.encode() for merge in vocabulary.merges])
    known = {
        "bos": writer.add_bos_token_id, "eos": writer.add_eos_token_id, "unk": writer.add_unk_token_id,
        "pad": writer.add_pad_token_id, "sep": writer.add_sep_token_id, "mask": writer.add_mask_token_id,
    }  # fmt: skip
    for name, token_id in vocabulary.special.items():
        if name in known:
            known[name](token_id)
    writer.add_add_bos_token(vocabulary.add_bos)
    writer.add_add_eos_token(vocabulary.add_eos)
    if chat_template:
        writer.add_chat_template(chat_template)
