"""Measure what can be compared across tokenizers."""
