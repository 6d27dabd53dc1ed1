"""`flux-mcp` whose worker needs no torch: for what goes on between clients and servers.

The rest is the product, and the worker is a process that speaks the real protocol: see "patient"
in `tests/jobs/bad_worker.py`. In `tests/e2e/test_processes.py` the workers are real.
"""

import sys
from pathlib import Path

from flux_mcp.cli import main
from flux_mcp.jobs.process_fleet import ProcessFleet

BAD_WORKER = Path(__file__).parents[2] / "jobs" / "bad_worker.py"

if __name__ == "__main__":
    ProcessFleet.__init__.__defaults__ = ((sys.executable, str(BAD_WORKER), "patient"),)
    main()
