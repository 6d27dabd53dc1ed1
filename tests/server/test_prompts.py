"""Packs as MCP prompts: listed, composed, completed, described, and announced when they change."""

import asyncio
import json
import os
import shutil
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from mcp import Client, MCPError
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.server.subscriptions import InMemorySubscriptionBus, PromptsListChanged
from mcp.types import (
    INVALID_PARAMS,
    Completion,
    Prompt,
    PromptListChangedNotification,
    PromptReference,
    ResourceTemplateReference,
    TextContent,
)

from flux_mcp.compose.guide import families, guide
from flux_mcp.compose.library import PackChanges, PackLibrary
from flux_mcp.server import prompt_feed
from flux_mcp.server.app import build_server
from flux_mcp.server.prompt_feed import PromptFeed
from flux_mcp.server.prompts import GUIDE, MAX_COMPLETIONS
from flux_mcp.service.service import Service
from flux_mcp.settings.settings import Settings
from tests.compose.packs_on_disk import MANIFEST, manifest, write_pack

pytestmark = pytest.mark.anyio

DRAGON = {"pattern": "dragon", "reason": "No dragons here.", "instead": "a small lizard"}
HEADLINE = {"description": "Words on it.", "default": "HELLO", "free_text": True}
SHIPPED = ["blog-pin", "editorial-illustration", "micro-shapes", "product-shot"]
DEADLINE_S = 90


@pytest.fixture
def own(settings: Settings) -> Path:
    """The folder of the user's own packs, with one in it."""
    folder = settings.paths.packs
    write_pack(
        folder / "pets",
        variables={**MANIFEST["variables"], "headline": HEADLINE},
        forbidden=[DRAGON],
    )
    return folder


@pytest.fixture
async def client(
    request: pytest.FixtureRequest, settings: Settings, own: Path
) -> AsyncIterator[Client]:
    """A client of today's protocol, or of the mode that a test names."""
    assert own.is_dir()
    service = Service(settings, executes=False)
    mode = getattr(request, "param", "auto")
    async with Client(build_server(service), mode=mode) as client:
        yield client
    await service.close()


BOTH_PROTOCOLS = pytest.mark.parametrize("client", ["auto", "legacy"], indirect=True)


async def prompts_of(client: Client) -> dict[str, Prompt]:
    return {prompt.name: prompt for prompt in (await client.list_prompts()).prompts}


async def text_of(client: Client, name: str, **arguments: str) -> str:
    (message,) = (await client.get_prompt(name, arguments)).messages
    assert message.role == "user"
    assert isinstance(message.content, TextContent)
    return message.content.text


async def refusal_of(client: Client, name: str, **arguments: str) -> str:
    with pytest.raises(MCPError) as refused:
        await client.get_prompt(name, arguments)
    assert refused.value.code == INVALID_PARAMS
    return refused.value.message


def call_in(text: str) -> dict[str, Any]:
    """Return the arguments of the tool call that a prompt tells the model to make."""
    start = text.index("{")
    return dict(json.JSONDecoder().raw_decode(text[start:])[0])


# --- prompts/list ------------------------------------------------------------------------------


async def test_the_guide_and_every_pack_are_listed(client: Client) -> None:
    listed = (await client.list_prompts()).prompts
    assert [prompt.name for prompt in listed] == [GUIDE, *sorted([*SHIPPED, "pets"])]
    assert all(prompt.title and prompt.description for prompt in listed)


@BOTH_PROTOCOLS
async def test_a_pack_is_listed_with_its_arguments_and_their_choices(client: Client) -> None:
    pets = (await prompts_of(client))["pets"]
    assert pets.title == "Test"
    assert pets.description == "A pack for tests. (Prompt pack 1.0.0.)"
    arguments = {one.name: one for one in pets.arguments or []}
    assert list(arguments) == ["subject", "light", "colour", "headline", "extra"]
    assert not any(one.required for one in arguments.values())
    about = {name: one.description for name, one in arguments.items()}
    assert about["light"] == "The light. One of: soft, hard; * for any. Left out: soft."
    assert about["subject"] == (
        "What is shown. One of: cat, dog; * for any. Or words of your own. Left out: cat."
    )
    assert about["headline"] == "Words on it. Or words of your own. Left out: HELLO."


async def test_an_argument_without_a_default_is_required(client: Client, own: Path) -> None:
    files: dict[str, str | bytes | None] = {"fixed_block.txt": "A photograph."}
    light = {"description": "The light.", "default": "soft"}
    write_pack(
        own / "who", files, subject={"description": "Who?"}, variables={"light": light}
    )  # fmt: skip
    arguments = (await prompts_of(client))["who"].arguments or []
    assert {one.name: one.required for one in arguments} == {
        "subject": True,
        "light": False,
        "extra": False,
    }
    assert "needs a subject: Who? cat, dog or own words." in await refusal_of(client, "who")


# --- prompts/get -------------------------------------------------------------------------------


async def test_the_guide_teaches_whole_or_one_family(client: Client) -> None:
    assert await text_of(client, GUIDE) == guide()
    family = families()[0]
    assert await text_of(client, GUIDE, family=family) == guide(family) != guide()
    assert await text_of(client, GUIDE, family="") == guide()
    assert f"Families: {', '.join(families())}" in await refusal_of(client, GUIDE, family="sdxl")
    assert "Did you mean 'family'?" in await refusal_of(client, GUIDE, familie="flux1")


@BOTH_PROTOCOLS
async def test_a_pack_composes_and_says_which_call_draws_it(client: Client) -> None:
    text = await text_of(client, "pets", subject="dog", light="hard", extra="in the rain")
    assert text.endswith(
        "A photograph in red tones. a brown dog on a rug. The light is hard. HELLO, in the rain"
    )
    assert "call flux_generate with" in text
    assert call_in(text) == {
        "pack": {
            "name": "pets",
            "subject": "dog",
            "variables": ["light=hard"],
            "extra": "in the rain",
        }
    }


async def test_the_call_a_prompt_names_makes_the_prompt_it_shows(client: Client) -> None:
    text = await text_of(client, "pets", subject="dog", colour="blue")
    answer = await client.call_tool("flux_generate", {**call_in(text), "dry_run": True})
    assert not answer.is_error
    assert answer.structured_content is not None
    assert answer.structured_content["plan"]["prompt"] in text


async def test_defaults_and_empty_arguments_are_left_to_the_pack(client: Client) -> None:
    text = await text_of(client, "pets", subject="", light="  ")
    assert call_in(text) == {"pack": {"name": "pets"}}
    assert "a tabby cat on a chair. The light is soft." in text


async def test_what_the_seed_decides_is_shown_as_an_example(client: Client) -> None:
    text = await text_of(client, "pets", subject="*", colour="red|blue")
    assert "Left to the seed, here as one example: subject, colour." in text
    assert call_in(text)["pack"]["subject"] == "*"
    assert "Left to the seed" not in await text_of(client, "pets")


async def test_what_the_pack_refuses_is_said_with_a_positive_wording(client: Client) -> None:
    text = await text_of(client, "pets", extra="and a dragon")
    assert "The audit: refuse because of 'dragon' in extra" in text
    assert "a small lizard" in text


async def test_of_many_findings_some_are_told_and_the_rest_counted(
    client: Client, own: Path
) -> None:
    beasts = [f"beast{number}" for number in range(11)]
    write_pack(own / "beasts", forbidden=[{"pattern": beast} for beast in beasts])
    text = await text_of(client, "beasts", extra=", ".join(beasts))
    assert text.count("The audit: refuse because of") == 8
    assert "The audit: 3 more." in text


async def test_a_pack_of_another_kind_names_its_tool_and_the_image(
    client: Client, own: Path
) -> None:
    write_pack(own / "retouch", kind="kontext")
    text = await text_of(client, "retouch")
    assert 'call flux_edit with {"pack": {"name": "retouch"}} and the image it starts' in text


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        ("pest", {}, "[unknown_pack] There is no prompt 'pest'. Did you mean 'pets'? Prompts: "),
        ("how-to-promt-flux", {}, f"Did you mean '{GUIDE}'?"),
        ("pest" * 500, {}, "[unknown_pack] There is no prompt 'pestpest"),
        ("pets", {"light" * 500: "soft"}, "has no argument 'lightlight"),
        ("pets", {"subjct": "dog"}, "has no argument 'subjct'. Did you mean 'subject'? Arguments"),
        ("pets", {"ligth": "hard"}, "has no argument 'ligth'. Did you mean 'light'?"),
        ("pets", {"light": "hrad"}, "'hrad' is no choice of light in the pack 'pets'. Did you"),
        ("pets", {"headline": "*"}, "'*' picks one of the choices, and headline has none"),
        ("pets", {"extra": "x" * 2001}, "extra: String should have at most 2000 characters"),
        ("pets", {"extra": "rain\0"}, "extra: contains control characters"),
        ("pets", {"extra": "in {ligth}"}, "Did you mean {light}?"),
        ("pets", {"extra": "rain " * 399}, "[prompt_too_long]"),
    ],
    ids=lambda value: str(value)[:24],
)
async def test_what_there_is_not_is_refused_with_the_nearest(
    client: Client, name: str, arguments: dict[str, str], says: str
) -> None:
    message = await refusal_of(client, name, **arguments)
    assert says in message
    assert len(message) < 600, "not the input sent back"


# --- completions -------------------------------------------------------------------------------


async def completion_of(client: Client, name: str, argument: str, begun: str) -> Completion:
    reference = PromptReference(name=name)
    result = await client.complete(reference, {"name": argument, "value": begun})
    return result.completion


@pytest.mark.parametrize(
    ("name", "argument", "begun", "values"),
    [
        ("pets", "light", "", ["soft", "hard", "*"]),
        ("pets", "light", "Ha", ["hard"]),
        ("pets", "subject", "o", ["dog"]),
        ("pets", "colour", "b", ["blue"]),
        ("pets", "colour", "r", ["red"]),
        ("pets", "headline", "", []),
        ("pets", "extra", "", []),
        ("pets", "nothing", "", []),
        ("nobody", "light", "", []),
        (GUIDE, "family", "mic", ["micro"]),
        (GUIDE, "family", "", list(families())),
        (GUIDE, "nothing", "", []),
    ],
)
async def test_arguments_of_prompts_are_completed(
    client: Client, name: str, argument: str, begun: str, values: list[str]
) -> None:
    found = await completion_of(client, name, argument, begun)
    assert found.values == values
    assert found.total == len(values)


async def test_what_begins_so_comes_before_what_contains_it(client: Client, own: Path) -> None:
    choices = {"warm-red": "w", "red": "r", "dark-red": "d"}
    colour = {"description": "C.", "default": "red", "choices": choices}
    write_pack(own / "reds", variables={**MANIFEST["variables"], "colour": colour})
    found = await completion_of(client, "reds", "colour", "red")
    assert found.values == ["red", "warm-red", "dark-red"]


async def test_a_hundred_completions_are_the_most_and_the_rest_is_counted(
    client: Client, own: Path
) -> None:
    files = {f"subjects/cat{number:03}.txt": "a cat" for number in range(150)}
    write_pack(own / "many", files)
    found = await completion_of(client, "many", "subject", "cat")
    assert len(found.values) == MAX_COMPLETIONS
    assert (found.total, found.has_more) == (151, True)


@BOTH_PROTOCOLS
async def test_names_of_packs_are_completed(client: Client) -> None:
    template = ResourceTemplateReference(uri="flux://packs/{name}")
    for begun, values in (("p", ["pets", "product-shot", "blog-pin", "micro-shapes"]), ("zz", [])):
        found = (await client.complete(template, {"name": "name", "value": begun})).completion
        assert found.values == values
    images = ResourceTemplateReference(uri="flux://images/{image_id}")
    none = await client.complete(images, {"name": "image_id", "value": ""})
    assert none.completion.values == []


# --- resources ---------------------------------------------------------------------------------


async def test_a_pack_is_a_resource_that_says_what_it_takes(
    client: Client, settings: Settings, own: Path
) -> None:
    (content,) = (await client.read_resource("flux://packs/pets")).contents
    assert content.mime_type == "application/json"
    described = json.loads(content.text)
    assert described == PackLibrary(settings.packs_dir, own).find("pets").describe()
    assert described["arguments"][1]["choices"]["soft"] == "The light is soft."
    listed = {str(one.uri): one for one in (await client.list_resources()).resources}
    assert listed["flux://packs/pets"].title == "Test"
    assert {f"flux://packs/{name}" for name in SHIPPED} < set(listed)


async def test_a_pack_there_is_not_or_that_is_wrong_is_no_resource(
    client: Client, own: Path
) -> None:
    with pytest.raises(MCPError, match=r"There is no pack 'pest'\. Did you mean 'pets'\?"):
        await client.read_resource("flux://packs/pest")
    write_pack(own / "pets", {"fixed_block.txt": "A {colur} photograph."})
    with pytest.raises(MCPError, match=r"fixed_block\.txt:1: Nothing fills \{colur\}"):
        await client.read_resource("flux://packs/pets")


# --- changes -----------------------------------------------------------------------------------


class Watched(PackLibrary):
    """Tells when it is looked at, and may be made to fail."""

    def __init__(self, shipped: Path, user: Path) -> None:
        super().__init__(shipped, user)
        self.fails = False
        self._looks = threading.Semaphore(0)

    def refresh(self) -> PackChanges:
        self._looks.release()
        if self.fails:
            raise RuntimeError("unexpected")
        return super().refresh()

    async def changed(self) -> str:
        changes = await asyncio.to_thread(self.refresh)
        return str(changes) if changes else ""

    async def looked_at(self, times: int) -> None:
        """Return once it was looked at so often from now on."""
        while self._looks.acquire(blocking=False):
            pass
        for _ in range(times):
            assert await asyncio.to_thread(self._looks.acquire, timeout=DEADLINE_S)


async def test_nothing_is_announced_while_nothing_changes_and_a_bug_ends_nothing(
    settings: Settings, own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prompt_feed, "LOOK_EVERY_S", 0)
    packs, bus = Watched(settings.packs_dir, own), InMemorySubscriptionBus()
    events: list[object] = []
    bus.subscribe(events.append)
    feed = PromptFeed(packs.changed, bus)
    running = asyncio.create_task(feed.run())
    await packs.looked_at(5)
    assert events == []

    (own / "pets" / "subjects" / "cat.txt").write_text("a black cat", encoding="utf-8")
    await packs.looked_at(5)
    assert events == [PromptsListChanged()]

    packs.fails = True
    await packs.looked_at(5)
    (own / "pets" / "subjects" / "cat.txt").write_text("a white cat", encoding="utf-8")
    packs.fails = False
    await packs.looked_at(5)
    assert events == [PromptsListChanged()] * 2
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


# --- changes, over stdio -----------------------------------------------------------------------


# Every change is waited for: by default that is seconds.
LOOKS_OFTEN = """
import sys
from flux_mcp.cli import main
from flux_mcp.server import prompt_feed

prompt_feed.LOOK_EVERY_S = 0.1
sys.argv = ["flux-mcp", "serve"]
main()
"""


@dataclass
class Heard:
    """What a client was told, in its era's way."""

    changes: int = 0
    ring: asyncio.Event = field(default_factory=asyncio.Event)

    def hear(self) -> None:
        self.changes += 1
        self.ring.set()

    async def next(self) -> None:
        async with asyncio.timeout(DEADLINE_S):
            await self.ring.wait()
        self.ring.clear()


@asynccontextmanager
async def served(
    settings: Settings, mode: Literal["auto", "legacy"]
) -> AsyncIterator[tuple[Client, Heard]]:
    """Start a server process, and listen to it as clients of an era do."""
    heard = Heard()

    async def on_message(message: object) -> None:
        # Of the newer era the SDK hands over what it also gives to the subscription.
        if mode == "legacy" and isinstance(message, PromptListChangedNotification):
            heard.hear()

    parameters = StdioServerParameters(
        command=sys.executable,
        args=["-P", "-c", LOOKS_OFTEN],
        env={
            **os.environ,
            "FLUX_MCP_DATA_DIR": str(settings.data_dir),
            "FLUX_MCP_LOG_LEVEL": "warning",
        },
    )
    async with Client(stdio_client(parameters), mode=mode, message_handler=on_message) as client:
        if mode == "legacy":
            yield client, heard
            return
        async with client.listen(prompts_list_changed=True) as events:

            async def follow() -> None:
                async for _ in events:
                    heard.hear()

            following = asyncio.create_task(follow())
            yield client, heard
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)


def rewrite(file: Path, text: str, aside: Path) -> None:
    """Put another file in place at once: half of it would be one more change."""
    aside.mkdir(exist_ok=True)
    (aside / file.name).write_text(text, encoding="utf-8")
    (aside / file.name).rename(file)


def put(folder: Path, own: Path) -> None:
    """Put a pack in place at once, as `git` or a person moving a folder does."""
    aside = own.parent / "aside" / folder.name
    shutil.copytree(folder, aside)
    aside.rename(own / folder.name)


@pytest.mark.parametrize("mode", ["auto", pytest.param("legacy", marks=pytest.mark.torture)])
async def test_a_pack_that_changes_on_disk_is_announced_and_used_without_a_restart(
    settings: Settings, tmp_path: Path, mode: Literal["auto", "legacy"]
) -> None:
    own, made = settings.paths.packs, write_pack(tmp_path / "pets")
    aside = tmp_path / "rewritten"
    own.mkdir(parents=True)
    async with served(settings, mode) as (client, heard):
        capabilities = client.server_capabilities.prompts
        assert capabilities is not None
        assert capabilities.list_changed is True
        assert "pets" not in await prompts_of(client)

        put(made, own)
        await heard.next()
        assert "pets" in await prompts_of(client)
        assert "a tabby cat on a chair" in await text_of(client, "pets")

        rewrite(own / "pets" / "subjects" / "cat.txt", "a black cat", aside)
        await heard.next()
        assert "a black cat" in await text_of(client, "pets")
        dry = await client.call_tool("flux_generate", {"pack": "pets", "dry_run": True})
        assert dry.structured_content is not None
        assert "a black cat" in dry.structured_content["plan"]["prompt"]

        rewrite(own / "pets" / "pack.json", manifest(titel="Pets"), aside)
        await heard.next()
        assert "pets" not in await prompts_of(client)
        assert "pets/pack.json:" in await refusal_of(client, "pets")
        assert "micro-shapes" in await prompts_of(client), "the others are not touched"

        rewrite(own / "pets" / "pack.json", manifest(title="Pets"), aside)
        await heard.next()
        assert (await prompts_of(client))["pets"].title == "Pets"

        (own / "pets").rename(aside / "pets")
        await heard.next()
        assert "pets" not in await prompts_of(client)
        assert heard.changes == 5, "each change once, and nothing else"
