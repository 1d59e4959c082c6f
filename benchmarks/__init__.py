"""Experiments, and the real models that they run on."""
