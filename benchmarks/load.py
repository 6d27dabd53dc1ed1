"""200 clients over HTTP at once for a minute: no error, no lost job? Ratio: loaded p99 / unloaded.

Method: `flux-mcp serve --transport http` on a gallery of 4000 images, with 20 principals. First
one client alone asks 25 times a second, then all of them together, each about every two seconds:
they submit jobs of 64 px, look at them without waiting, search by words, filters and cursors,
read thumbnails, cancel, ask for jobs of others. The queue is full most of the time, so the worker
draws without a pause; a full queue is an answer, and the client comes back. Each answer is checked
against what its client knows; afterwards every job is followed to its end, and the database is
compared with everything the clients were answered.

Most clients are lean (load_callers.py); some are the SDK's, of both protocol eras. They share the
machine with server and worker, so their share of it is reported. Their number, time and pace can be
given: --clients, --seconds, --pause-s.

Unit: ratios of 99th percentiles and medians; milliseconds; MiB a minute.
"""

import argparse
import asyncio
import json
import secrets
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from common import (
    Result,
    p50_p99_ms,
    ratio,
    scratch,
    script_command,
)
from load_callers import ERAS, LEAN
from load_checks import audit
from load_orders import Account, Orders
from load_server import MIB, Server, Watch
from rows import IMAGE, fill, records

from flux_mcp.gallery.store import ImageRecord

ROWS = 4000
PRINCIPALS = 20
"""Each token is used by ten clients; the limits of a principal are as they are shipped."""
CLIENTS = 200
SDK_EVERY = 10
"""One client in so many is the SDK's, for each protocol era."""
SECONDS, QUICK_SECONDS = 60.0, 5.0
ALONE_SECONDS = 30.0
PAUSE_S, ALONE_PAUSE_S = 2.0, 0.04
ALONE_LOTS = {"look_again": 60, "search": 20, "thumbnail": 15, "submit": 2, "cancel": 1, "sheet": 1}
"""A quiet server: a job now and then, drawn at once."""
TARGETS = {"get_job": "< 10x"}
SHOWN = 5
"""Different problems on the GPU."""
LONGEST_LINE_BYTES = 256 * 1024 * 1024


async def visit(orders: Sequence[Orders], watch: Watch | None = None) -> list[Account]:
    """Run processes of visitors, all beginning at the same time."""
    processes = [
        await asyncio.create_subprocess_exec(
            *script_command("load_visitors.py"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=LONGEST_LINE_BYTES,
        )
        for _ in orders
    ]
    for process, order in zip(processes, orders, strict=True):
        _send(process, json.dumps(asdict(order)))
    await _read_all(processes, "ready")
    watching = asyncio.create_task(watch.run()) if watch else None
    for process in processes:
        _send(process, "go")
    await _read_all(processes, "visited")
    if watching:
        watching.cancel()
    accounts = [Account(**json.loads(await _read(process))) for process in processes]
    for process in processes:
        await process.wait()
    return accounts


def _send(process: asyncio.subprocess.Process, line: str) -> None:
    if process.stdin is not None:
        process.stdin.write(f"{line}\n".encode())


async def _read(process: asyncio.subprocess.Process) -> str:
    if process.stdout is None or not (line := await process.stdout.readline()):
        raise RuntimeError("visitors ended before their account")
    return line.decode()


async def _read_all(processes: Sequence[asyncio.subprocess.Process], word: str) -> None:
    for process in processes:
        if (await _read(process)).strip() != word:
            raise RuntimeError(f"visitors did not say {word}")


def _orders(asked: argparse.Namespace, url: str, tokens: dict[str, str]) -> list[Orders]:
    """Return the orders of each process. The SDK's clients have one of their own.

    They work longer on an answer than the lean ones, which would wait for them.
    """
    names = list(tokens)
    kinds = [_kind(number) for number in range(asked.clients)]
    visitors = [
        (kind, names[number % len(names)], tokens[names[number % len(names)]])
        for number, kind in enumerate(kinds)
    ]
    lean = [one for one in visitors if one[0] == LEAN]
    sdk = [one for one in visitors if one[0] != LEAN]
    return [
        Orders(url, part, asked.seconds, asked.pause_s, seed)
        for seed, part in enumerate((lean, sdk), start=1)
        if part
    ]


def _kind(number: int) -> str:
    """Return which client number `number` is: of each principal's ten, two are the SDK's."""
    place = number // PRINCIPALS % SDK_EVERY
    return [*ERAS][place] if place < len(ERAS) else LEAN


def _rows() -> Iterator[ImageRecord]:
    for number, record in enumerate(records(0, ROWS, image=IMAGE)):
        principal = _principal(number)
        changed = {"principal": principal, "session": f"{principal} {number // 1000}"}
        yield record.model_copy(update=changed)


def _principal(number: int) -> str:
    return f"p{number % PRINCIPALS:02d}"


def _tokens(data_dir: Path) -> dict[str, str]:
    """Write a file of tokens and return them by principal."""
    tokens = {_principal(number): secrets.token_urlsafe(32) for number in range(PRINCIPALS)}
    file = data_dir / "tokens"
    file.touch(mode=0o600)
    file.write_text("".join(f"{name} {token}\n" for name, token in tokens.items()))
    return tokens


@contextmanager
def _server(data_dir: Path) -> Iterator[Server]:
    server = Server(data_dir)
    try:
        yield server
    finally:
        server.stop()


async def measure(asked: argparse.Namespace) -> Result:
    """Ask alone, ask together, follow every job, compare with the database."""
    counts = {"clients": asked.clients, "seconds": round(asked.seconds), "rows": ROWS}
    result = Result("load", asked.quick, counts)
    with scratch() as folder:
        data_dir = folder / "data"
        fill(data_dir, _rows())
        tokens = _tokens(data_dir)
        with _server(data_dir) as server:
            name, token = next(iter(tokens.items()))
            lone = [(LEAN, name, token)]
            warm = Orders(server.url, lone, 3, ALONE_PAUSE_S, seed=98, lots=ALONE_LOTS)
            seconds = QUICK_SECONDS if asked.quick else ALONE_SECONDS
            quiet = Orders(server.url, lone, seconds, ALONE_PAUSE_S, seed=99, lots=ALONE_LOTS)
            before = await visit([warm])
            _say(f"one client alone for {seconds:.0f} s")
            alone = await visit([quiet])
            _say(f"{asked.clients} clients for {asked.seconds:.0f} s; server {server.seen.pid}")
            watch = Watch(data_dir, server.seen)
            together = await visit(_orders(asked, server.url, tokens), watch)
        everything = [*before, *alone, *together]
        jobs = {job_id: seen for account in everything for job_id, seen in account.jobs.items()}
        problems = [problem for account in everything for problem in account.problems]
        problems += audit(data_dir, jobs)
        problems += [f"the server said: {line}" for line in server.trouble]
    _report_calls(result, alone, together)
    _report_jobs(result, together, problems)
    _report_machine(result, together, watch)
    return result


def _say(what: str) -> None:
    """Tell who waits how far it is; stdout is for the table."""
    print(f"{what} ...", file=sys.stderr, flush=True)


def _spans(accounts: Sequence[Account]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = defaultdict(list)
    for account in accounts:
        for name, spans_s in account.spans_s.items():
            found[name] += spans_s
    return found


def _report_calls(result: Result, alone: Sequence[Account], together: Sequence[Account]) -> None:
    base, loaded = _spans(alone), _spans(together)
    for name in sorted(loaded):
        numbers = result.absolute[name] = {**p50_p99_ms(loaded[name]), "calls": len(loaded[name])}
        text = f"p50 {numbers['p50_ms']:.1f} ms, p99 {numbers['p99_ms']:.1f} ms"
        if name in base:
            quiet = p50_p99_ms(base[name])
            result.absolute[f"{name}, alone"] = {**quiet, "calls": len(base[name])}
            p50 = ratio(numbers["p50_ms"], quiet["p50_ms"])
            p99 = ratio(numbers["p99_ms"], quiet["p99_ms"])
            result.ratios |= {f"{name}.p50": p50, f"{name}.p99": p99}
            text = (
                f"p99 {p99:.1f}x (p50 {p50:.1f}x); {text}; "
                f"alone {quiet['p50_ms']:.1f}, {quiet['p99_ms']:.1f} ms"
            )
        result.line(f"{name} ({len(loaded[name])})", text, TARGETS.get(name, ""))


def _report_jobs(result: Result, accounts: Sequence[Account], problems: Sequence[str]) -> None:
    states = Counter(seen["status"] for account in accounts for seen in account.jobs.values())
    refusals = sum((Counter(account.refusals) for account in accounts), Counter[str]())
    kinds = Counter(problem[:80] for problem in problems)
    result.absolute["jobs"] = dict(states)
    result.absolute["refusals"] = dict(refusals)
    result.absolute["problems"] = len(problems)
    result.line("jobs", ", ".join(f"{count} {state}" for state, count in states.items()))
    result.line("a full queue", f"{refusals['queue_full']} times")
    shown = "; ".join(f"{count} x {kind}" for kind, count in kinds.most_common(SHOWN))
    result.line("errors, lost or double jobs", f"{len(problems)} {shown}".strip(), "0")


def _report_machine(result: Result, accounts: Sequence[Account], watch: Watch) -> None:
    wall_s = max(account.wall_s for account in accounts)
    calls = sum(len(spans) for spans in _spans(accounts).values())
    parts = ("lean clients", "sdk clients")
    clients = {
        name: round(account.cpu_s / wall_s, 2)
        for name, account in zip(parts, accounts, strict=False)
    }
    used = watch.cores_used()
    result.absolute |= {
        "requests_per_s": round(calls / wall_s, 1),
        "cores": {**clients, **used},
        "rss_mib": watch.rss_mib(),
        "rss_mib_per_min": watch.slope_mib_per_min(),
        "fds": [watch.fds[0], max(watch.fds)],
        "database_mib": [round(watch.database_bytes[at] / MIB, 1) for at in (0, -1)],
    }
    absolute = result.absolute
    result.line("requests", f"{absolute['requests_per_s']} a second")
    shares = ", ".join(f"{name} {share:.2f}" for name, share in absolute["cores"].items())
    result.line("cores used", shares)
    first, last, most = absolute["rss_mib"]
    result.line(
        "memory of the server",
        f"{absolute['rss_mib_per_min']} MiB a minute after the first third; "
        f"{first} to {last} MiB, at most {most}",
        "flat",
    )
    result.line("open files of the server", "{} to {}".format(*absolute["fds"]))
    result.line("database with its log", "{} to {} MiB".format(*absolute["database_mib"]))


def main() -> None:
    """Run it from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a few seconds: does it still run?")
    parser.add_argument("--clients", type=int, default=CLIENTS)
    parser.add_argument("--seconds", type=float, help=f"default {SECONDS:.0f}")
    parser.add_argument("--pause-s", type=float, default=PAUSE_S, help="between two calls")
    asked = parser.parse_args()
    asked.seconds = asked.seconds or (QUICK_SECONDS if asked.quick else SECONDS)
    question = (__doc__ or "").strip().splitlines()[0]
    found = asyncio.run(measure(asked))
    found.publish(question)
    sys.exit(1 if found.absolute["problems"] else 0)


if __name__ == "__main__":
    main()
