"""What must hold for the jobs of the load benchmark: while clients look, and afterwards."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FINAL = frozenset({"completed", "failed", "cancelled"})
_RANK = {"queued": 0, "running": 1, **dict.fromkeys(FINAL, 2)}


@dataclass
class Seen:
    """A job of a visitor, as its last answer had it."""

    principal: str
    status: str
    step: int = 0
    images: list[str] = field(default_factory=list)
    cancel_asked: bool = False
    cancelled_at_once: bool = False


class Jobs:
    """The jobs of one client, as its answers had them.

    Args:
        principal: Whose they are.
        problem: Called with what must not be.
    """

    def __init__(self, principal: str, problem: Callable[[str], None]) -> None:
        self.seen: dict[str, Seen] = {}
        self._principal = principal
        self._problem = problem

    def unfinished(self) -> list[str]:
        """Return the jobs that have not ended, as far as is known."""
        return [job_id for job_id, seen in self.seen.items() if seen.status not in FINAL]

    def accepted(self, answer: dict[str, Any]) -> None:
        """Take the answer to a submit."""
        job_id = answer["job_id"]
        self._expect(job_id not in self.seen, "a new job has the id of an older one")
        self.seen[job_id] = Seen(self._principal, answer["status"])
        self.answered(job_id, answer)

    def cancelled(self, job_id: str, answer: dict[str, Any]) -> None:
        """Take the answer to a cancel."""
        (said,) = [name for name, ids in answer.items() if job_id in ids]
        seen = self.seen[job_id]
        seen.cancel_asked = True
        seen.cancelled_at_once = said == "cancelled"

    def answered(self, job_id: str, answer: dict[str, Any]) -> None:
        """Compare an answer about a job with the one before."""
        seen, status = self.seen[job_id], answer["status"]
        images = [image["id"] for image in answer["images"]]
        self._expect(answer["job_id"] == job_id, "an answer about another job")
        self._expect(
            _RANK[status] >= _RANK[seen.status], f"a job went from {seen.status} to {status}"
        )
        if seen.status in FINAL:
            self._expect(status == seen.status, f"a final job went from {seen.status} to {status}")
            self._expect(images == seen.images, "a final job's images changed")
        if seen.status == status == "running":
            self._expect(answer["step"] >= seen.step, "a running job went back")
        self._expect(len(images) == (status == "completed"), "not the images that were asked for")
        self._expect(status != "failed", f"a job failed: {answer.get('error')}")
        self._expect(status != "cancelled" or seen.cancel_asked, "cancelled without a request")
        self._expect(
            not seen.cancelled_at_once or status == "cancelled", f"cancelled, and then {status}"
        )
        self._expect(("position" in answer) == (status == "queued"), "a wrong place")
        seen.status, seen.step, seen.images = status, answer["step"], images

    def _expect(self, holds: bool, otherwise: str) -> None:
        if not holds:
            self._problem(otherwise)


def audit(data_dir: Path, jobs: dict[str, dict[str, Any]]) -> list[str]:
    """Return every difference between the jobs clients know and the rows there are.

    Args:
        data_dir: Of a server that has ended.
        jobs: By id, as `load_orders.Account` has them.
    """
    file = f"file:{data_dir / 'gallery.sqlite'}?mode=ro"
    with closing(sqlite3.connect(file, uri=True)) as database:
        stored = {
            job_id: (status, principal, attempt)
            for job_id, status, principal, attempt in database.execute(
                "SELECT id, status, principal, attempt FROM jobs"
            )
        }
        images: dict[str, list[str]] = {}
        for job_id, image_id, principal, png, webp in database.execute(
            "SELECT job_id, id, principal, file, thumbnail FROM images ORDER BY n"
        ):
            if job_id in stored:
                images.setdefault(job_id, []).append(image_id)
                files = [data_dir / name for name in (png, webp)]
                if principal != stored[job_id][1] or not all(file.is_file() for file in files):
                    images[job_id].append("an image without its file, or of another principal")
        (whole,) = database.execute("PRAGMA integrity_check").fetchone()
    found = [] if whole == "ok" else [f"the database is damaged: {whole}"]
    found += [f"{job_id} is lost" for job_id in jobs.keys() - stored.keys()]
    found += [f"{job_id} belongs to no client" for job_id in stored.keys() - jobs.keys()]
    for job_id in jobs.keys() & stored.keys():
        answer, (status, principal, attempt) = jobs[job_id], stored[job_id]
        has = images.get(job_id, [])
        if (status, principal) != (answer["status"], answer["principal"]):
            found.append(
                f"{job_id} is {status} of {principal}, and was answered as {answer['status']}"
            )
        if has != answer["images"]:
            found.append(f"{job_id} has the images {has}, and was answered with {answer['images']}")
        if attempt > 1:
            found.append(f"{job_id} was drawn {attempt} times")
    return found
