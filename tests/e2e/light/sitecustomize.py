"""Python imports this at its start: a process that was to be a worker becomes a light one.

Not of the test's own process; `light_worker` puts this folder before others for servers. They start
their workers as they always do, and the processes look alike from outside.
"""

import os
import sys

if "flux_mcp.pipelines.worker" in sys.orig_argv:
    import runpy
    import traceback
    from pathlib import Path

    try:
        light = Path(__file__).parents[2] / "jobs" / "bad_worker.py"
        sys.argv = [str(light), "patient"]
        runpy.run_path(str(light), run_name="__main__")
    except BaseException:  # noqa: BLE001 - Python would go on with the worker that was asked for
        traceback.print_exc()
        os._exit(1)
    os._exit(0)
