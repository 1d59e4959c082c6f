"""Find the vocabulary-sized tensors of a model directory, read only those, rewrite only those."""

from tokensurgeon.checkpoint.layout import VocabularyTensors, find_vocabulary_tensors
from tokensurgeon.checkpoint.resolve import resolve
from tokensurgeon.checkpoint.shards import Checkpoint
from tokensurgeon.checkpoint.tokenizer import TokenizerFiles

__all__ = ["Checkpoint", "TokenizerFiles", "VocabularyTensors", "find_vocabulary_tensors", "resolve"]
