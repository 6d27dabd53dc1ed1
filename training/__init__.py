"""The recipe of the micro family: from nothing to five folders that the FLUX pipelines load.

Run it with `python -m training`; see training/README.md. The server does not import this.
"""
