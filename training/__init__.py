"""The recipe of the micro family: from nothing to five folders that the FLUX pipelines load.

Run it with `python -m training`; training/README.md tells how. Nothing of the server imports this.
"""
