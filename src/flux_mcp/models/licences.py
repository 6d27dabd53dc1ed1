"""What the licence classes of weights mean, as rows read from licences.toml. Pure data.

Which class a model has stands in its row of models.toml; which may be chosen unasked is decided by
the setting `licences`.
"""

import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict, TypeAdapter

from flux_mcp.setting_types import Licence

LICENCES_TOML = Path(__file__).with_name("licences.toml")


class LicenceRow(BaseModel):
    """One class."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    about: str
    source: str


@cache
def load_licences() -> Mapping[Licence, LicenceRow]:
    """Return the rows of licences.toml, read at the first call."""
    table = tomllib.loads(LICENCES_TOML.read_text(encoding="utf-8"))
    return TypeAdapter(dict[Licence, LicenceRow]).validate_python(table)
