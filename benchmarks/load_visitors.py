"""Some clients of the load benchmark, in a process of their own: what each does, sees and checks.

Started by load.py. Reads a line of JSON (`Orders`), connects, writes `ready`, waits for a line,
visits for `seconds`, writes `visited`, follows every job to its end, and writes one line of JSON
(`Account`).

Each visitor does one thing at a time: it draws lots for an act, does it, checks the answer, pauses.
A pause lasts from half to one and a half times `pause_s`.
"""

import asyncio
import json
import random
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import asdict
from typing import Any

from load_callers import LEAN, Caller, RefusedError, connected
from load_checks import FINAL, Jobs
from load_orders import Account, Orders
from rows import COMMON_WORD, RARE_WORD

JOB = {"model": "micro", "width": 64, "height": 64, "steps": 4, "wait_s": 0, "preview": "none"}
"""About the smallest image there is."""
DRAIN_S = 180
SEARCHES: tuple[dict[str, Any], ...] = (
    {},
    {"query": COMMON_WORD},
    {"query": RARE_WORD},
    {"query": f"{COMMON_WORD} sto*", "kind": "text2img"},
    {"kind": "kontext", "model": "micro"},
    {"created_before": "2026-01-03"},
)


class Visitor:
    """One client: its jobs, its searches, its doubts."""

    def __init__(
        self, kind: str, principal: str, caller: Caller, orders: Orders, number: int, all_: Account
    ) -> None:
        self._kind = kind
        self._principal = principal
        self._caller = caller
        self._orders = orders
        self._account = all_
        self._random = random.Random(orders.seed * 1000 + number)  # noqa: S311 - made-up behaviour
        self._jobs = Jobs(principal, self._problem)
        self._images: list[str] = []
        self._cursor: tuple[dict[str, Any], str, frozenset[str]] | None = None
        self._full_until_s = 0.0
        self.strangers: Callable[[str], str | None] = lambda _: None

    async def visit(self, until_s: float) -> None:
        """Act until the time is up."""
        pause_s = self._orders.pause_s
        await asyncio.sleep(self._random.uniform(0, pause_s))
        names, weights = zip(*self._orders.lots.items(), strict=True)
        while time.perf_counter() < until_s:
            (name,) = self._random.choices(names, weights)
            act: Callable[[], Awaitable[bool]] = getattr(self, f"_{name}")
            try:
                if not await act() and not await self._submit():
                    await self._search()
            except RefusedError as error:
                self._problem(f"{name} was refused: {error}")
            except Exception as error:  # noqa: BLE001 - whatever it is, it is counted
                self._problem(f"{name}: {type(error).__name__}: {error}")
                if not isinstance(error, AssertionError):
                    return  # the connection is gone
            await asyncio.sleep(self._random.uniform(0.5, 1.5) * pause_s)

    async def drain(self) -> None:
        """Follow every job to its end."""
        deadline = time.perf_counter() + DRAIN_S
        try:
            for job_id, seen in self._jobs.seen.items():
                while seen.status not in FINAL and time.perf_counter() < deadline:
                    asked = {"job_id": job_id, "wait_s": 10, "preview": "none"}
                    self._jobs.answered(job_id, await self._caller.tool("flux_get_job", asked))
        except Exception as error:  # noqa: BLE001 - whatever it is, it is counted
            self._problem(f"drain: {type(error).__name__}: {error}")
        self._account.jobs |= {job_id: asdict(seen) for job_id, seen in self._jobs.seen.items()}

    def a_job(self) -> str | None:
        """Return one of this visitor's jobs."""
        return self._random.choice([*self._jobs.seen]) if self._jobs.seen else None

    @property
    def principal(self) -> str:
        """Whose jobs these are."""
        return self._principal

    # --- acts: each returns whether it was possible ----------------------------------------------

    async def _submit(self) -> bool:
        if time.perf_counter() < self._full_until_s:
            return False
        asked = self._a_request()
        try:
            answer = await self._timed("submit", "flux_generate", asked)
        except RefusedError as error:
            self._full(error)
            return True
        self._jobs.accepted(answer)
        return True

    async def _submit_twice(self) -> bool:
        if time.perf_counter() < self._full_until_s:
            return False
        asked = {**self._a_request(), "idempotency_key": f"key {self._random.getrandbits(64):x}"}
        try:
            first = await self._timed("submit", "flux_generate", asked)
        except RefusedError as error:
            self._full(error)
            return True
        self._jobs.accepted(first)
        second = await self._timed("submit", "flux_generate", asked)
        self._expect(first["job_id"] == second["job_id"], "one key made two jobs")
        self._jobs.answered(first["job_id"], second)
        return True

    async def _look(self) -> bool:
        return await self._look_at(self._jobs.unfinished())

    async def _look_again(self) -> bool:
        return await self._look_at([*self._jobs.seen])

    async def _look_at(self, job_ids: list[str]) -> bool:
        if not job_ids:
            return False
        job_id = self._random.choice(job_ids)
        asked = {"job_id": job_id, "wait_s": 0}
        answer = await self._timed("get_job", "flux_get_job", asked)
        self._jobs.answered(job_id, answer)
        self._images += [image["id"] for image in answer["images"]]
        return True

    async def _cancel(self) -> bool:
        if not (unfinished := self._jobs.unfinished()):
            return False
        job_id = self._random.choice(unfinished)
        answer = await self._timed("cancel", "flux_cancel_job", {"job_id": job_id})
        self._jobs.cancelled(job_id, answer)
        return True

    async def _search(self) -> bool:
        if self._cursor is not None:
            wanted, cursor, before = self._cursor
            asked = {**wanted, "cursor": cursor}
        else:
            wanted, before = self._random.choice(SEARCHES), frozenset()
            asked = wanted
        answer = await self._timed("search", "flux_search_gallery", {**asked, "preview": "none"})
        images = answer["images"]
        ids = frozenset(image["id"] for image in images)
        self._expect(len(ids) == len(images) and not ids & before, "a hit comes twice")
        for image in images:
            if "model" in wanted:
                self._expect(image["model"] == wanted["model"], "a hit of another model")
            words = wanted.get("query", "").replace("*", "").split()
            is_whole = not image["prompt"].endswith("…")
            has_words = all(word in image["prompt"] for word in words)
            self._expect(has_words or not is_whole, "a hit without its words")
        self._images = [image["id"] for image in images] or self._images
        following = answer.get("next_cursor")
        go_on = following is not None and self._random.random() < 0.5
        self._cursor = (wanted, following, before | ids) if go_on else None
        return True

    async def _sheet(self) -> bool:
        await self._timed("sheet", "flux_search_gallery", {"query": COMMON_WORD})
        return True

    async def _thumbnail(self) -> bool:
        if not self._images:
            return False
        uri = f"flux://images/{self._random.choice(self._images)}/thumbnail"
        started = time.perf_counter()
        content = await self._caller.resource(uri)
        self._spent("thumbnail", started)
        self._expect(content[:4] == b"RIFF" and content[8:12] == b"WEBP", "not a WebP")
        return True

    async def _stranger(self) -> bool:
        job_id = self.strangers(self._principal)
        if job_id is None:
            return False
        try:
            await self._timed("stranger", "flux_get_job", {"job_id": job_id, "wait_s": 0})
        except RefusedError as error:
            self._expect(error.code == "unknown_job", f"a job of another principal: {error}")
        else:
            self._problem("a job of another principal was shown")
        return True

    # --- what must hold --------------------------------------------------------------------------

    def _a_request(self) -> dict[str, Any]:
        words = self._random.choice(("red circle", "blue square", "green triangle", "yellow star"))
        return {
            **JOB,
            "prompt": f"a {words} on a white background, {COMMON_WORD}",
            "seed": self._random.randrange(2**31),
            "session": f"{self._principal} load",
        }

    def _full(self, error: RefusedError) -> None:
        """Count a full queue, and come back a little later; anything else must not be."""
        if error.code != "queue_full":
            raise error
        refusals = self._account.refusals
        refusals[error.code] = refusals.get(error.code, 0) + 1
        self._full_until_s = time.perf_counter() + self._random.uniform(1, 3)

    async def _timed(self, call: str, tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
        started = time.perf_counter()
        try:
            return await self._caller.tool(tool, arguments)
        finally:
            self._spent(call, started)

    def _spent(self, call: str, started: float) -> None:
        name = call if self._kind == LEAN else f"{call}, {self._kind}"
        self._account.spans_s.setdefault(name, []).append(time.perf_counter() - started)

    def _expect(self, holds: bool, otherwise: str) -> None:
        if not holds:
            self._problem(otherwise)

    def _problem(self, what: str) -> None:
        self._account.problems.append(f"{self._kind}: {what}"[:300])


async def visit(orders: Orders) -> Account:
    """Connect every visitor, wait for the word, visit, drain."""
    account = Account()
    async with AsyncExitStack() as stack:
        visitors = []
        for number, (kind, principal, token) in enumerate(orders.visitors):
            caller = await stack.enter_async_context(connected(kind, orders.url, token))
            visitors.append(Visitor(kind, principal, caller, orders, number, account))
        for visitor in visitors:
            visitor.strangers = _strangers(visitors, orders.seed)
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        cpu_s, started = time.process_time(), time.perf_counter()
        await asyncio.gather(*(one.visit(started + orders.seconds) for one in visitors))
        account.cpu_s, account.wall_s = time.process_time() - cpu_s, time.perf_counter() - started
        print("visited", flush=True)
        await asyncio.gather(*(one.drain() for one in visitors))
    return account


def _strangers(visitors: list[Visitor], seed: int) -> Callable[[str], str | None]:
    choose = random.Random(seed)  # noqa: S311 - made-up behaviour

    def job_of_another(principal: str) -> str | None:
        others = [one for one in visitors if one.principal != principal]
        return choose.choice(others).a_job() if others else None

    return job_of_another


if __name__ == "__main__":
    account = asyncio.run(visit(Orders(**json.loads(sys.stdin.readline()))))
    print(json.dumps(asdict(account)), flush=True)
