"""Weights from the hub: download, check, remove, and what is on disk."""
