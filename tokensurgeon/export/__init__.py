"""Models as GGUF files, for llama.cpp."""

from tokensurgeon.export.vocabulary import GgufVocabulary, gguf_vocabulary
from tokensurgeon.export.write import GGUF_DTYPES, ExportReport, export_gguf

__all__ = ["GGUF_DTYPES", "ExportReport", "GgufVocabulary", "export_gguf", "gguf_vocabulary"]
