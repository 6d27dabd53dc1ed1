"""docs/tools.md: what the tools take and give, from the models of arguments and answers."""

from collections.abc import Iterator, Sequence
from typing import Any

from flux_mcp.requests.schemas import DRAW_REQUESTS
from flux_mcp.server.results import MAX_PREVIEW_BYTES, MAX_PREVIEWS
from flux_mcp.server.tools import TOOLS, ToolRow, inlined
from flux_mcp.service.answers import FindingAnswer, LoraAnswer, TokensAnswer
from flux_mcp.settings.sources import Schema, default_of, kind_of
from reference.markdown import NOTE, page, table


def tools_page() -> str:
    """Return what the eight tools take and give."""
    drawing = [row for row in TOOLS if row.request in DRAW_REQUESTS.values()]
    common_names = _common([_arguments(row)["properties"] for row in drawing])
    shared = _arguments(drawing[0])
    lines = [
        NOTE,
        "# The tools",
        (
            f"{len(TOOLS)} tools, always listed in this order. "
            "This page says what they take and what they give; the [README](../README.md) says "
            "what they are for. What is published to a calling model is shorter: "
            "[tools.json](../src/flux_mcp/server/tools.json). A model reads about 4,400 "
            "tokens of it with each conversation; the settings [`tools` and `compact_schemas`]"
            "(settings.md#tools) make it fewer."
        ),
        (
            "An argument of another name, type or range is refused, not repaired: the answer is a "
            "tool error `[code] what is wrong. what to do.` with a code of "
            "[errors.md](errors.md), and has every mistake of the call."
        ),
        (
            "An argument that is empty is taken as left out, because the strict modes of some "
            'clients make a model give every argument: `null`, `""`, `[]`, `{}`, an object that '
            "holds only such or zeros, and where no other meaning is possible a number or word: "
            "`width`, `height` and `steps` 0, `seed`, `guidance` and `feather_px` -1, "
            '`aspect_ratio` and `preview` "auto", `kind` "any". '
            "What could mean something is not: `count` 0 is refused, `seed` 0 is a seed, and "
            "`loras` [] beside a pack is without the pack's."
        ),
        table(
            "tool", "in short", rows=((f"[`{row.name}`](#{row.name})", row.title) for row in TOOLS)
        ),
        "## What an answer holds",
        (
            "- a **text** with every fact a model needs that cannot see images: id, size, seed, "
            "model, file, URI, notices; without a preview also the main colours and, where a "
            "captioner is installed, what it says that the image shows; "
            "numbers where there is a contact sheet;\n"
            f"- **previews** as WebP, at most {MAX_PREVIEWS} of {MAX_PREVIEW_BYTES:,} bytes; "
            "more images come as one numbered contact sheet (JPEG); the whole answer stays below "
            "1 MB (`preview_bytes` sets less);\n"
            "- a **resource link** to each full PNG, `flux://images/{id}` "
            "(`flux://images/{id}/thumbnail` is a WebP of 512 px, `flux://jobs/{id}` a job as "
            "JSON);\n"
            "- **structured content** as listed under [Answers](#answers), with a published "
            "schema; `next` says what to call where there is something to do.\n\n"
            "What a client cannot use is left out: [clients/content.md](clients/content.md)."
        ),
        "## Arguments that five tools share",
        f"{', '.join(f'`{row.name}`' for row in drawing)} all take these.",
        _fields(shared, only=common_names),
        *(_tool(row, common_names if row in drawing else frozenset()) for row in TOOLS),
        "## Answers",
        (
            "Structured content. A key that would be `null` is left out, in what an answer holds "
            "also one that is empty, and so are the hashes; an image repeats nothing that its job "
            "says but the seed, and a plan is whole. `flux://jobs/{id}` "
            "and the command line, with `--json`, have every key. A later version may add keys."
        ),
        *(_answer(model) for model in dict.fromkeys(one for row in TOOLS for one in row.answers)),
        "### Parts of a dry run",
        "Published as objects only; these are their keys.",
        *(_answer(model) for model in (FindingAnswer, TokensAnswer, LoraAnswer)),
    ]
    return page(lines)


def _common(properties: Sequence[Schema]) -> frozenset[str]:
    first, *others = properties
    return frozenset(
        name for name in first if all(other.get(name) == first[name] for other in others)
    )


def _arguments(row: ToolRow) -> Schema:
    return inlined(row.request.model_json_schema())


def _tool(row: ToolRow, without: frozenset[str]) -> str:
    schema = _arguments(row)
    own = frozenset(schema["properties"]) - without
    beside = " Beside the [shared arguments](#arguments-that-five-tools-share):" if without else ""
    names = (f"[`{one.__name__}`](#{one.__name__.lower()})" for one in row.answers)
    answer = f"Answer: {' or '.join(names)}.{beside}"
    return "\n\n".join([f"## {row.name}", row.description, answer, _fields(schema, only=own)])


def _answer(model: Any) -> str:
    about = (model.__doc__ or "").strip().splitlines()[0]
    schema = inlined(model.model_json_schema(mode="serialization"))
    return "\n\n".join([f"### {model.__name__}", about, _fields(schema, answer=True)])


def _fields(schema: Schema, *, only: frozenset[str] | None = None, answer: bool = False) -> str:
    names = ("field", "type", "meaning") if answer else ("argument", "type", "default", "meaning")
    rows = []
    for name, field, is_required in _walk(schema):
        if only is not None and name.split(".")[0].removesuffix("[]") not in only:
            continue
        kind = kind_of(field)
        cells = [f"`{name}`", kind, field.get("description", "")]
        if not answer:
            # Null is said by leaving an argument out.
            cells[1] = kind.removesuffix(" or null")
            cells.insert(2, "required" if is_required else default_of(field))
        rows.append(cells)
    return table(*names, rows=rows)


def _walk(schema: Schema, prefix: str = "") -> Iterator[tuple[str, Schema, bool]]:
    """Yield every field, also of nested objects (`mask.box.x`) and lists (`images[].id`)."""
    for name, field in schema.get("properties", {}).items():
        yield f"{prefix}{name}", field, name in schema.get("required", ())
        for inner in (field, *field.get("anyOf", ())):
            yield from _walk(inner, f"{prefix}{name}.")
            yield from _walk(inner.get("items", {}), f"{prefix}{name}[].")
