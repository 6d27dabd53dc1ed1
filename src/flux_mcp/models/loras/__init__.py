"""LoRA files: their headers, which models they fit, the library of a data folder. No torch."""
