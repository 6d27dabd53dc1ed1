"""LoRA files: their headers, which models they fit, the library of a data folder. No torch."""

MAX_WEIGHT = 4.0
"""Weights reach from -4 to 4: beyond, every LoRA draws noise."""
