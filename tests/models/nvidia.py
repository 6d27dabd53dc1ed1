"""A program that answers like nvidia-smi: the fields it is asked for, or the words of a failure."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

_PROGRAM = """#!{python}
import json, sys, time
from pathlib import Path

told = json.loads({told!r})
with Path({log!r}).open("a") as log:
    log.write("x")
if told["hangs"]:
    time.sleep(600)
if told["code"]:
    print(told["words"])
    sys.exit(told["code"])
what, _, fields = sys.argv[1].removeprefix("--query-").partition("=")
assert sys.argv[2:] == ["--format=csv,noheader,nounits"], sys.argv
if what == "compute-apps" and told["programs"] is None:
    print("Not Supported")
    sys.exit(told["programs_code"])
for row in told["gpus"] if what == "gpu" else told["programs"]:
    for field in fields.split(","):
        if field not in row:
            print(f'Field "{{field}}" is not a valid field to query.')
            sys.exit(2)
    print(", ".join(str(row[field]) for field in fields.split(",")))
"""
RTX_4090 = "NVIDIA GeForce RTX 4090"


def gpu(
    uuid: str = "GPU-1",
    name: str = RTX_4090,
    *,
    total_mib: int | str = 24564,
    free_mib: int | str = 20000,
    compute: str = "8.9",
    driver: str = "580.95.05",
    mig: str = "[N/A]",
) -> dict[str, str | int]:
    """Return a GPU as the driver tells of it."""
    return {
        "uuid": uuid,
        "name": name,
        "memory.total": total_mib,
        "memory.free": free_mib,
        "compute_cap": compute,
        "driver_version": driver,
        "mig.mode.current": mig,
    }


def program(
    pid: int, used_mib: int | str, *, uuid: str = "GPU-1", name: str = "/usr/bin/python"
) -> dict[str, str | int]:
    """Return a program on a GPU as the driver tells of it."""
    return {"gpu_uuid": uuid, "pid": pid, "used_memory": used_mib, "process_name": name}


def put_nvidia_smi(
    folder: Path,
    gpus: Sequence[Mapping[str, str | int]] = (),
    programs: Sequence[Mapping[str, str | int]] | None = (),
    *,
    code: int = 0,
    words: str = "",
    hangs: bool = False,
    programs_code: int = 0,
) -> str:
    """Write the program into a folder and return its path; `asked` there counts its calls.

    `programs=None`: the driver does not tell of programs, as under WSL.
    """
    path = folder / "nvidia-smi"
    told = {
        "gpus": gpus,
        "programs": programs,
        "code": code,
        "words": words,
        "hangs": hangs,
        "programs_code": programs_code,
    }
    log = str(folder / "asked")
    path.write_text(
        _PROGRAM.format(python=sys.executable, told=json.dumps(told), log=log), encoding="utf-8"
    )
    path.chmod(0o755)
    return str(path)
