"""Average LoRA adapters of one base, or pack several into one file from which each comes back."""
