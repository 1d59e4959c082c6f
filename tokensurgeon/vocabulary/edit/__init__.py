"""Change a ``tokenizer.json``."""
