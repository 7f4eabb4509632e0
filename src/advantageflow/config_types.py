"""Types of settings, with their bounds."""

from __future__ import annotations

import os.path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

LARGE = 1e8  # beyond any sensible setting; keeps products and timers finite
Positive = Annotated[float, Field(gt=0, le=LARGE)]
NonNegative = Annotated[float, Field(ge=0, le=LARGE)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1, le=10**8)]
BatchSize = Literal["auto"] | Count
MOST_SHOWN = 256
NumberShown = Annotated[int, Field(ge=1, le=MOST_SHOWN)]
Pixels = Annotated[int, Field(ge=1, le=16384)]


def _listed(given: object) -> object:
    """One name stands for a list of it; several may be typed with commas between them."""
    return [name.strip() for name in given.split(",")] if isinstance(given, str) else given


Trackers = Annotated[list[str], BeforeValidator(_listed)]
PathText = Annotated[str, AfterValidator(os.path.expanduser)]  # `~` is the home directory


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True)
