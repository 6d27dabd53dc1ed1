"""Prompt packs: read, put together, audited. Pure but for the reading; knows no torch, no server.

`composer.compose` is the way in: a library of packs and a choice give a `Composition`.
"""
