"""`python -m tests.conformance.server`: what the official conformance suite runs against.

The product's own HTTP server on 127.0.0.1, without a token, with the suite's fixtures beside the
eight tools.
"""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

from flux_mcp.cli.common import read_settings, run_now, set_up_logging
from flux_mcp.server.transports.http import serve_http
from flux_mcp.service.service import Service
from tests.conformance.server.app import build_conformance_server

PORT = 8799


def main() -> None:
    """Serve until a signal ends it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=PORT, help="0: a free one")
    with TemporaryDirectory(prefix="flux-mcp-") as folder:
        settings = read_settings(
            Path(folder),
            transport="http",
            host="127.0.0.1",
            port=parser.parse_args().port,
            loopback_without_token=True,
        )
        set_up_logging(settings.log_level, settings.log_format)
        service = Service(settings)
        run_now(lambda: serve_http(service, build_conformance_server(service)))


if __name__ == "__main__":
    main()
