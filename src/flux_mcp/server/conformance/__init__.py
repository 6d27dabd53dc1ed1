"""The server that the conformance suite runs against."""
