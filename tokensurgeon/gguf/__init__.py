"""Write models as GGUF files, for llama.cpp."""

from tokensurgeon.gguf.vocabulary import GgufVocabulary, gguf_vocabulary
from tokensurgeon.gguf.write import GGUF_DTYPES, ExportReport, check_export, export_gguf

__all__ = ["GGUF_DTYPES", "ExportReport", "GgufVocabulary", "check_export", "export_gguf", "gguf_vocabulary"]
