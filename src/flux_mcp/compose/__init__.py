"""Prompt packs: read from folders, put together to prompts, and audited.

`composer.compose` is the entry point: a library of packs and a choice give a `Composition`.
"""
