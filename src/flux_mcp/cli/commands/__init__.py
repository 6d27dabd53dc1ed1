"""The commands as typer reads them: flags, help, and a call of the module that does the work.

That module is imported when the command runs: what prints help needs none of it.
"""
