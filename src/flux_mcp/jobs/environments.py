"""The whole environments of the processes we start: a worker, and the downloading process.

They are made before any Hugging Face import there, because those libraries read their variables
when they are imported (diffusers 0.42, huggingface_hub 2.4). Owns nothing.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path

from flux_mcp.settings.environment import all_variables
from flux_mcp.settings.files import whole_path
from flux_mcp.settings.settings import WORKER_SETTINGS, Settings

_TOKEN_VARIABLES = frozenset({"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"})
"""Only the downloading process gets them."""
_NOT_FOR_DOWNLOADS = frozenset({"HF_DEBUG", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"})


def worker_environment(settings: Settings) -> dict[str, str]:
    """Return the whole environment of a worker process.

    The hub is offline and remote code is off, whatever the caller's shell says; progress bars and
    warnings of the libraries stay out of the log. Source: diffusers 0.42.1, huggingface_hub 2.4.
    """
    inherited = {
        name: value
        for name, value in all_variables().items()
        # Unbuffered, a start-up file that prints would write into the frames before we can stop it.
        if name != "PYTHONUNBUFFERED"
        # The worker must not read settings again: flags and files of the server would be missing,
        # and secrets are none of its business.
        and not name.upper().startswith("FLUX_MCP_")
        and name not in _TOKEN_VARIABLES
    }
    return {
        **inherited,
        "HF_HOME": str(settings.paths.hf_cache),
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "DIFFUSERS_DISABLE_REMOTE_CODE": "true",
        "DIFFUSERS_TRUST_REMOTE_KERNELS": "false",
        "DIFFUSERS_GGUF_CUDA_KERNELS": "false",
        # Plans name what computes attention; without a name it must not be the shell that does.
        "DIFFUSERS_ATTN_BACKEND": "native",
        # What torch compiles is kept for the workers that follow (torch 2.13, _inductor).
        "TORCHINDUCTOR_CACHE_DIR": str(settings.paths.compiled),
        "TORCHINDUCTOR_FX_GRAPH_CACHE": "1",
        "DIFFUSERS_VERBOSITY": "error",
        "TRANSFORMERS_VERBOSITY": "error",
        "TOKENIZERS_PARALLELISM": "false",
        "TQDM_DISABLE": "1",
        **_settings_as_environment(settings),
    }


def hub_environment(settings: Settings) -> dict[str, str]:
    """Return the whole environment of the downloading process, the only one that goes online.

    The hub's libraries keep everything below the data folder, but find the token where the user's
    `hf auth login` put it; HF_ENDPOINT, proxies and HF_TOKEN are the caller's. Xet is off: its
    transfers cannot be taken up again by another process, ours can. Source: huggingface_hub 2.4,
    constants.py and file_download.py.
    """
    inherited = {
        name: value
        for name, value in all_variables().items()
        if not name.upper().startswith("FLUX_MCP_") and name not in _NOT_FOR_DOWNLOADS
    }
    return {
        **inherited,
        "HF_HOME": str(settings.paths.hf_cache),
        "HF_TOKEN_PATH": str(_hub_token_file(all_variables())),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_UPDATE_CHECK": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }


def _hub_token_file(variables: Mapping[str, str]) -> Path:
    """Return where `hf auth login` keeps the token (huggingface_hub 2.4, constants.py)."""
    named = variables.get("HF_TOKEN_PATH")
    if named:
        return whole_path(Path(named))
    caches = variables.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return whole_path(Path(variables.get("HF_HOME") or Path(caches) / "huggingface")) / "token"


def _settings_as_environment(settings: Settings) -> Mapping[str, str]:
    """Hand a worker the settings it reads, all of them and no other, and no file to read."""
    chosen = settings.model_dump(mode="json", include=set(WORKER_SETTINGS), exclude_none=True)
    as_text = {n: v if isinstance(v, str) else json.dumps(v) for n, v in chosen.items()}
    variables = {f"FLUX_MCP_{name.upper()}": text for name, text in as_text.items()}
    return {**variables, "FLUX_MCP_CONFIG": os.devnull}
