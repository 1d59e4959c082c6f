"""``tokenizer.json`` in, a changed one out."""
