"""Log lines and traces of this process."""
