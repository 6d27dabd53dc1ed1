"""How the pipelines of each family of models are called; `family.py` finds a family's module."""
