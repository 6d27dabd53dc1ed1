"""What the converters of third-party packages make of published tools, as one JSON document.

python conversions.py TOOLS     converts the tools of a file with every package that is installed

Run by test_conversions.py with the Python of another virtual environment: nothing of flux-mcp is
imported, and each package only where its converters are called.
"""

import json
import logging
import sys
from collections.abc import Callable
from copy import deepcopy
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

Tool = dict[str, Any]
Schema = dict[str, Any]


def main() -> None:
    """Print `{converter: {tool: schema}}`; an error's text, or a warning's, instead of a schema."""
    tools = json.loads(Path(sys.argv[1]).read_bytes())
    found = {
        name: {tool["name"]: _converted(convert, tool) for tool in tools}
        for package, converters in CONVERTERS.items()
        if _is_installed(package)
        for name, convert in converters().items()
    }
    json.dump(found, sys.stdout)


def _is_installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


def _converted(convert: Callable[[Tool], Schema], tool: Tool) -> Schema | str:
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger().addHandler(handler)
    try:
        schema = convert(deepcopy(tool))
    except Exception as error:  # noqa: BLE001 - the result is that it cannot be converted
        return f"{type(error).__name__}: {error}"
    finally:
        logging.getLogger().removeHandler(handler)
    return "; ".join(said) or schema


# --- google-genai ------------------------------------------------------------------------------


def _google_genai() -> dict[str, Callable[[Tool], Schema]]:
    from google.genai._mcp_utils import mcp_to_gemini_tool
    from mcp.types import Tool as McpTool

    def convert(tool: Tool) -> Schema:
        made = mcp_to_gemini_tool(McpTool.model_validate(tool))
        schema = made.function_declarations[0].parameters
        return schema.model_dump(mode="json", exclude_none=True, by_alias=True)

    return {"google-genai": convert}


# --- google-adk --------------------------------------------------------------------------------


def _google_adk() -> dict[str, Callable[[Tool], Schema]]:
    from google.adk.tools._gemini_schema_util import _to_gemini_schema

    def convert(tool: Tool) -> Schema:
        return _to_gemini_schema(tool["inputSchema"]).model_dump(
            mode="json", exclude_none=True, by_alias=True
        )

    return {"google-adk": convert}


# --- LangChain ---------------------------------------------------------------------------------


def _structured(tool: Tool) -> Any:
    """Return a LangChain tool as langchain-mcp-adapters makes one."""
    from langchain_core.tools import StructuredTool

    return StructuredTool(
        name=tool["name"], description=tool["description"], args_schema=tool["inputSchema"],
        func=print,
    )  # fmt: skip


def _langchain_google() -> dict[str, Callable[[Tool], Schema]]:
    from langchain_google_genai._function_utils import convert_to_genai_function_declarations

    def convert(tool: Tool) -> Schema:
        made = convert_to_genai_function_declarations([_structured(tool)])
        made = made[0] if isinstance(made, list) else made
        dumped = made.model_dump(mode="json", exclude_none=True)["function_declarations"][0]
        return dumped.get("parameters") or dumped["parameters_json_schema"]

    return {"langchain-google-genai": convert}


def _langchain_openai() -> dict[str, Callable[[Tool], Schema]]:
    from langchain_core.utils.function_calling import convert_to_openai_tool

    return {
        "langchain-openai": lambda tool: convert_to_openai_tool(_structured(tool))["function"][
            "parameters"
        ],
        "langchain-openai strict": lambda tool: convert_to_openai_tool(
            _structured(tool), strict=True
        )["function"]["parameters"],
    }


def _langchain_anthropic() -> dict[str, Callable[[Tool], Schema]]:
    from langchain_anthropic.chat_models import convert_to_anthropic_tool

    return {
        "langchain-anthropic": lambda tool: convert_to_anthropic_tool(_structured(tool))[
            "input_schema"
        ],
        "langchain-anthropic strict": lambda tool: convert_to_anthropic_tool(
            _structured(tool), strict=True
        )["input_schema"],
    }


# --- openai-agents -----------------------------------------------------------------------------


def _openai_agents() -> dict[str, Callable[[Tool], Schema]]:
    from agents.mcp import MCPServerStdio, MCPUtil
    from mcp.types import Tool as McpTool

    server = MCPServerStdio(params={"command": "nothing"})

    def convert(tool: Tool, *, strict: bool) -> Schema:
        made = MCPUtil.to_function_tool(McpTool.model_validate(tool), server, strict)
        if made.strict_json_schema is not strict:
            raise ValueError("the schema could not be made strict")
        return made.params_json_schema

    return {
        "openai-agents": lambda tool: convert(tool, strict=False),
        "openai-agents strict": lambda tool: convert(tool, strict=True),
    }


# --- pydantic-ai -------------------------------------------------------------------------------


def _pydantic_ai() -> dict[str, Callable[[Tool], Schema]]:
    from pydantic_ai.profiles.google import (
        GoogleJsonSchemaTransformer,
        GoogleOpenAPISchemaTransformer,
    )
    from pydantic_ai.profiles.openai import OpenAIJsonSchemaTransformer

    return {
        "pydantic-ai google": lambda tool: GoogleJsonSchemaTransformer(tool["inputSchema"]).walk(),
        "pydantic-ai google live": lambda tool: GoogleOpenAPISchemaTransformer(
            tool["inputSchema"]
        ).walk(),
        "pydantic-ai openai": lambda tool: OpenAIJsonSchemaTransformer(tool["inputSchema"]).walk(),
        "pydantic-ai openai strict": lambda tool: OpenAIJsonSchemaTransformer(
            tool["inputSchema"], strict=True
        ).walk(),
    }


CONVERTERS: dict[str, Callable[[], dict[str, Callable[[Tool], Schema]]]] = {
    "google-genai": _google_genai,
    "google-adk": _google_adk,
    "langchain-google-genai": _langchain_google,
    "langchain-openai": _langchain_openai,
    "langchain-anthropic": _langchain_anthropic,
    "openai-agents": _openai_agents,
    "pydantic-ai-slim": _pydantic_ai,
}

if __name__ == "__main__":
    main()
