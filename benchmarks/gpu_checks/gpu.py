"""What the driver's own tool says of the GPU: clocks, power, memory. No torch."""

import subprocess

from flux_mcp.models.planning.machine import nvidia_tool

_FIELDS = {
    "name": "name",
    "driver": "driver_version",
    "total_mib": "memory.total",
    "used_mib": "memory.used",
    "sm_mhz": "clocks.sm",
    "memory_mhz": "clocks.mem",
    "power_w": "power.draw",
    "power_limit_w": "power.limit",
    "temperature_c": "temperature.gpu",
}
"""Our name -> the name in `nvidia-smi --help-query-gpu`."""
_TIMEOUT_S = 10.0


def read_gpu() -> dict[str, str | float]:
    """Return what is known of the first GPU now; nothing where no tool or no GPU answers."""
    tool = nvidia_tool()
    if tool is None:
        return {}
    query = f"--query-gpu={','.join(_FIELDS.values())}"
    try:
        answer = subprocess.run(
            [tool, query, "--format=csv,noheader,nounits", "--id=0"],
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return {}
    return parse_gpu(answer.stdout)


def parse_gpu(line: str) -> dict[str, str | float]:
    """Return the named values of a line of the tool; those it cannot tell are left out."""
    cells = [cell.strip() for cell in line.split(",")]
    if len(cells) != len(_FIELDS):
        return {}
    told: dict[str, str | float] = {}
    for name, cell in zip(_FIELDS, cells, strict=True):
        if name in ("name", "driver"):
            told[name] = cell
            continue
        try:
            told[name] = float(cell)
        except ValueError:  # "[N/A]"
            continue
    return told
