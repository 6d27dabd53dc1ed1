"""Transports: stdio, streamable HTTP and SSE, and the guard in front of HTTP."""
