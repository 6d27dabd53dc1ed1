"""docs/tools.md: what the tools take and give, from their schemas."""

from collections.abc import Iterator, Sequence
from typing import Any

from flux_mcp.requests.schemas import DRAW_REQUESTS
from flux_mcp.server.results import MAX_PREVIEW_BYTES, MAX_PREVIEWS
from flux_mcp.server.tools import TOOLS, ToolRow, input_schema, output_schema
from flux_mcp.settings.sources import Schema, default_of, kind_of
from reference.markdown import NOTE, page, table


def tools_page() -> str:
    """Return what the eight tools take and give."""
    drawing = [row for row in TOOLS if row.request in DRAW_REQUESTS.values()]
    common_names = _common([input_schema(row.request)["properties"] for row in drawing])
    shared = input_schema(drawing[0].request)
    lines = [
        NOTE,
        "# The tools",
        (
            f"{len(TOOLS)} tools, always listed in this order. "
            "This page says what they take and what they give; the [README](../README.md) says "
            "what they are for."
        ),
        (
            "An argument of another name, type or range is refused, not repaired: the answer is a "
            "tool error `[code] what is wrong. what to do.` with a code of [errors.md](errors.md)."
        ),
        table(
            "tool", "in short", rows=((f"[`{row.name}`](#{row.name})", row.title) for row in TOOLS)
        ),
        "## What an answer holds",
        (
            "- a **text** with every fact a model needs that cannot see images: id, size, seed, "
            "model, file, URI, notices;\n"
            f"- **previews** as WebP, at most {MAX_PREVIEWS} of {MAX_PREVIEW_BYTES:,} bytes; "
            "more images come as one numbered contact sheet; the whole answer stays below 1 MB;\n"
            "- a **resource link** to each full PNG, `flux://images/{id}` "
            "(`flux://images/{id}/thumbnail` is a WebP of 512 px, `flux://jobs/{id}` a job as "
            "JSON);\n"
            "- **structured content** as listed under [Answers](#answers), with a published schema."
        ),
        "## Arguments the drawing tools share",
        f"{', '.join(f'`{row.name}`' for row in drawing)} all take these.",
        _fields(shared, only=common_names),
        *(_tool(row, common_names if row in drawing else frozenset()) for row in TOOLS),
        "## Answers",
        (
            "Structured content; the command line prints the same objects with `--json`. "
            "`null` is a value here."
        ),
        *(_answer(model) for model in dict.fromkeys(row.answer for row in TOOLS)),
    ]
    return page(lines)


def _common(properties: Sequence[Schema]) -> frozenset[str]:
    first, *others = properties
    return frozenset(
        name for name in first if all(other.get(name) == first[name] for other in others)
    )


def _tool(row: ToolRow, without: frozenset[str]) -> str:
    schema = input_schema(row.request)
    own = frozenset(schema["properties"]) - without
    beside = (
        " Beside the [shared arguments](#arguments-the-drawing-tools-share):" if without else ""
    )
    answer = f"Answer: [`{row.answer.__name__}`](#{row.answer.__name__.lower()}).{beside}"
    return "\n\n".join([f"## {row.name}", row.description, answer, _fields(schema, only=own)])


def _answer(model: Any) -> str:
    about = (model.__doc__ or "").strip().splitlines()[0]
    return "\n\n".join([f"### {model.__name__}", about, _fields(output_schema(model), answer=True)])


def _fields(schema: Schema, *, only: frozenset[str] | None = None, answer: bool = False) -> str:
    names = ("field", "type", "meaning") if answer else ("argument", "type", "default", "meaning")
    rows = []
    for name, field, is_required in _walk(schema):
        if only is not None and name.split(".")[0].removesuffix("[]") not in only:
            continue
        cells = [f"`{name}`", kind_of(field), field.get("description", "")]
        if not answer:
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
