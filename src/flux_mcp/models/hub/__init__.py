"""Weights from the Hugging Face hub: download, check, remove, and find on disk."""
