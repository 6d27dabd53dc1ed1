"""LoRA files: what their headers say, which models they fit, the library of a data folder. No torch."""
