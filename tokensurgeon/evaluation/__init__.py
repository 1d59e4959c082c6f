"""Measures that can be compared across tokenizers."""
