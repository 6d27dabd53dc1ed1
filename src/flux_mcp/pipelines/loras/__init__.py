"""LoRAs on loaded transformers."""
