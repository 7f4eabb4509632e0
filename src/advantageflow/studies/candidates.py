"""Models that are drawn side by side: named one by one, with an adapter or without, or the two of a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advantageflow.config import Config, ModelSettings, check_config
from advantageflow.errors import ConfigError, shown, to_type

if TYPE_CHECKING:
    from advantageflow.models.base import FlowModel
    from advantageflow.prompts import PromptSet


@dataclass(frozen=True)
class Candidate:
    """A model to draw with.

    adapter: what is put beside its weights; transformer: a folder whose weights stand in for its own.
    """

    name: str
    settings: ModelSettings
    adapter: str = ""
    transformer: Path | None = None

    def load(self, say: Callable[[str], None]) -> FlowModel:
        """The model, on the GPU if there is one.

        Args:
            say: is told what is being loaded, and how much of an adapter there is.
        """
        from advantageflow.models import load_and_say

        model = load_and_say(self.settings, say)
        if self.transformer:
            model.load_transformer(self.transformer)
            say(f"with the weights in {self.transformer}")
        if self.adapter:
            say(f"with the adapter {self.adapter}: {model.load_adapter(self.adapter)}")
        return model

    def contents(self) -> dict[str, Any]:
        """What decides its pictures, by fingerprints; read from the files, so it is the same wherever they lie."""
        from advantageflow import fingerprint
        from advantageflow.adapters import read_adapters
        from advantageflow.models.source import content, stands_on

        def adapter(source: str | None) -> str | None:
            if not source:
                return None
            files = read_adapters(source)
            parts = [
                (fingerprint.of_tensors(file.tensors), dict(file.settings), *((file.weight,) * (file.weight != 1)))
                for file in files
            ]
            return fingerprint.of_value(parts[0] if len(parts) == 1 else parts)

        settings, base = self.settings, stands_on(self.settings)
        speed = {"device", "offload", "vae_slicing", "gradient_checkpointing", "prompt_cache", "shard"}
        return {
            "model": [content(settings.path) or settings.path, content(base) if base != settings.path else None],
            "adapter": [adapter(settings.lora), adapter(self.adapter)],
            "transformer": self.transformer and fingerprint.of_folder(self.transformer),
            "settings": settings.model_dump(mode="json", exclude={"path", "base", "lora", *speed}),
        }


def named(models: Sequence[str], lora: str | None, settings: dict[str, Any]) -> list[Candidate]:
    """Models, each checked, with the adapter that `lora` gives to all of them.

    Args:
        models: MODEL or MODEL+ADAPTER.
        settings: of `config.ModelSettings`, for all.

    Raises:
        ConfigError: a model, adapter or setting cannot be.
    """
    from advantageflow.models import check_model_path

    found = []
    for model in models:
        path, _, adapter = (model, "", "") if Path(model).expanduser().exists() else model.partition("+")
        adapter = adapter or lora or ""
        checked = check_config({"model": {**settings, "path": path}}).model
        check_model_path(checked.path, checked.base)
        if adapter:
            from advantageflow.adapters import read_adapters

            read_adapters(adapter)
        found.append(Candidate(f"{path}+{adapter}" if adapter else path, checked, adapter))
    return found


def of_run(run: Path, config: Config, lora: str | None, settings: dict[str, Any]) -> list[Candidate]:
    """The base model of a run, and what the run has made of it.

    Args:
        lora: another adapter instead of the run's.
        settings: of `config.ModelSettings`, instead of the run's.

    Raises:
        ConfigError: the run has exported nothing yet.
    """
    from advantageflow.adapters import read_adapters

    given = {**config.model.model_dump(mode="json"), "device": "auto", "shard": False, **settings}
    base = check_config({"model": given}).model
    adapter, transformer = lora or str(run / "lora"), run / "transformer"
    if lora or (run / "lora").is_dir():
        read_adapters(adapter)  # it holds what the run started from, too
        trained = base.model_copy(update={"lora": None})
        return [Candidate(base.path, base), Candidate(f"{base.path}+{adapter}", trained, adapter)]
    if transformer.is_dir():
        return [Candidate(base.path, base), Candidate(str(transformer), base, transformer=transformer)]
    raise ConfigError(
        f"{run} has no lora folder yet; it is written at every evaluation (evaluation.every) and at the end: wait, or "
        f"write it with: advantageflow export {to_type(run)} --output DIR"
    )


def prompts_of_run(config: Config) -> PromptSet:
    """The held-out prompts of a run."""
    from advantageflow.prompts import load_prompt_sets

    return load_prompt_sets(config.prompts)[1]


def parse_size(text: str) -> int | list[int]:
    """Pixels, as in 512, or HEIGHTxWIDTH, as in 512x768."""
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isdecimal() for part in parts):
        raise ConfigError(
            f"--resolution is {shown(text)}; allowed: pixels such as 512, or HEIGHTxWIDTH such as 512x768"
        )
    sizes = [int(part) for part in parts]
    return sizes if len(sizes) == 2 else sizes[0]
