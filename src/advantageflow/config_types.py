"""Types of settings, with their bounds."""

from __future__ import annotations

import os.path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

LARGE = 1e8  # beyond any sensible setting; keeps products and timers finite
Positive = Annotated[float, Field(gt=0, le=LARGE)]
NonNegative = Annotated[float, Field(ge=0, le=LARGE)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1, le=10**8)]
BatchSize = Literal["auto"] | Count
MOST_SHOWN = 256
NumberShown = Annotated[int, Field(ge=1, le=MOST_SHOWN)]
Pixels = Annotated[int, Field(ge=1, le=16384)]
PathText = Annotated[str, AfterValidator(os.path.expanduser)]  # `~` is the home directory


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True)
