"""LoRA adapters from anywhere: read whole, fitted to a transformer layer by layer, or refused by name.

Read are our exports and diffusers' files, peft's folders, and the files of kohya's and ComfyUI's trainers; safetensors
only. What is loaded adds B A to each of its layers, in float32, and nothing in the file is left over.
"""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from peft.utils.other import get_pattern_key
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from advantageflow import __version__, fingerprint
from advantageflow.adapter_names import bare_name, has_swapped_halves, known_names, without_network
from advantageflow.config import Config
from advantageflow.environment import commit
from advantageflow.errors import ConfigError, NonFiniteError, shown
from advantageflow.hub import PICKLED, file_of_hub

FILE = "pytorch_lora_weights.safetensors"
PEFT_FILE, PEFT_CONFIG = "adapter_model.safetensors", "adapter_config.json"
ABOUT = "advantageflow"  # the one key of our metadata: safetensors shuffles several, and bytes would differ
NAME = "loaded"  # of the adapter in the transformer
UNSUPPORTED = {
    "dora_scale": "DoRA",
    "lora_magnitude_vector": "DoRA",
    "hada_": "LoHa",
    "lokr_": "LoKr",
    "lora_mid": "LoCon",
    "lora_te": "an adapter of the text encoder",
    "text_encoder": "an adapter of the text encoder",
    ".diff": "a full difference of weights",
    ".bias": "a bias",
}
_FACTOR = re.compile(r"(.+)\.(lora_A|lora_B|lora_down|lora_up|lora\.down|lora\.up)(?:\.default)?\.weight")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)")
_ALPHA = re.compile(r"(.+)\.alpha")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class AdapterFile:
    """What an adapter's file holds, not yet fitted to a model.

    settings: of peft, where the file comes with some; about: what our export says of itself.
    weight: that it is added with.
    """

    source: str
    tensors: dict[str, Tensor]
    settings: Mapping[str, Any]
    about: Mapping[str, Any]
    weight: float = 1.0


@dataclass(frozen=True)
class Adapter:
    """Layer -> (A [rank, inputs], B [outputs, rank]), float32, with every scale multiplied into B."""

    source: str
    layers: dict[str, tuple[Tensor, Tensor]]

    @property
    def fingerprint(self) -> str:
        return fingerprint.of_tensors({f"{name}.{i}": pair[i] for name, pair in self.layers.items() for i in (0, 1)})

    def __str__(self) -> str:
        ranks = sorted({len(a) for a, _ in self.layers.values()})
        return f"{len(self.layers)} layers of rank {', '.join(map(str, ranks))}"


def read_adapters(source: str) -> list[AdapterFile]:
    """Read adapters that are added: ADAPTER, or ADAPTER:WEIGHT+ADAPTER:WEIGHT and so on, a weight being 1 by default.

    Raises:
        ConfigError: a name is missing, a weight is no number, or see `read_adapter`.
    """
    if source and Path(source).expanduser().exists():
        return [read_adapter(source)]
    parts, found = source.split("+"), []
    if any(not part or part.startswith(":") for part in parts):  # "" would be the current folder
        raise ConfigError(f"the adapters {shown(source)} lack a name; allowed: ADAPTER, or ADAPTER:0.7+ADAPTER:0.5")
    for part in parts:
        name, colon, weight = part.rpartition(":")
        if not colon or Path(part).expanduser().exists():
            name, weight = part, "1"
        if not _NUMBER.fullmatch(weight):
            raise ConfigError(
                f"the adapter {shown(part)} has the weight {shown(weight)}; allowed: a number, as in {name}:0.8"
            )
        found.append(replace(read_adapter(name), weight=float(weight)))
    return found


def read_adapter(source: str) -> AdapterFile:
    """Read a file, a folder, or OWNER/NAME or OWNER/NAME/FILE of the hub.

    Raises:
        ConfigError: there is no adapter, or it is damaged, pickled, empty, not finite, or of an unsupported kind.
    """
    file, config = _locate(source)
    tensors, metadata = _read_file(source, file)
    for name, tensor in tensors.items():
        for mark, kind in UNSUPPORTED.items():
            if mark in name:
                raise ConfigError(f"the adapter {source} holds {kind} ({name}), which is not supported; give a LoRA")
        if not torch.isfinite(tensor).all():
            raise ConfigError(f"the adapter {source} is not finite: {name} holds NaN or infinity")
    try:
        settings = json.loads(config.read_text(encoding="utf-8")) if config else _diffusers_settings(metadata)
        said = json.loads(metadata.get(ABOUT, "{}"))
        if not isinstance(settings, dict) or not isinstance(said, dict):
            raise ValueError("its settings are not a mapping")
    except ValueError as error:
        raise ConfigError(f"cannot read the settings of the adapter {source}: {error}") from error
    if settings.get("peft_type", "LORA") != "LORA" or settings.get("use_dora"):
        kind = "DoRA" if settings.get("use_dora") else str(settings["peft_type"])
        raise ConfigError(f"the adapter {source} is a {kind[:50]}, which is not supported; give a LoRA")
    return AdapterFile(source, tensors, settings, said)


def _locate(source: str) -> tuple[Path, Path | None]:
    """The file with the tensors, and peft's settings beside it."""
    path = Path(source).expanduser()
    if path.is_file():
        config = path.with_name(PEFT_CONFIG)
        file = path
    elif path.is_dir():
        known = [path / name for name in (FILE, PEFT_FILE) if (path / name).is_file()]
        found = known or sorted(path.glob("*.safetensors"))
        if len(found) != 1:
            pickled = sorted(file.name for file in path.iterdir() if file.suffix in PICKLED)
            if not found and pickled:
                raise ConfigError(_pickled(source, pickled[0]))
            names = ", ".join(file.name for file in found[:5]) or "none"
            raise ConfigError(
                f"{source} holds no {FILE}, no {PEFT_FILE} and no other single .safetensors file ({names}); give the "
                "lora folder of a run, or the file itself"
            )
        file, config = found[0], path / PEFT_CONFIG
    else:
        return _locate_on_hub(source)
    if file.suffix in PICKLED:
        raise ConfigError(_pickled(source, file.name))
    return file, config if config.is_file() and file.name == PEFT_FILE else None


def _locate_on_hub(source: str) -> tuple[Path, Path | None]:
    parts = source.split("/")
    if len(parts) < 2 or not all(parts) or parts[0] in (".", "..", "~"):
        raise ConfigError(f"{source} holds no {FILE}, because it does not exist; give the lora folder of a run")
    repository, inner = "/".join(parts[:2]), "/".join(parts[2:])
    if inner.endswith(PICKLED):
        raise ConfigError(_pickled(source, inner))
    if inner.endswith(".safetensors"):
        file = file_of_hub(repository, inner)
        return file, file_of_hub(repository, PEFT_CONFIG, missing=True) if file.name == PEFT_FILE else None
    for name in (FILE, PEFT_FILE):
        wanted = f"{inner}/{name}".removeprefix("/")
        found = file_of_hub(repository, wanted, missing=True)
        if found is not None:
            settings = wanted.replace(PEFT_FILE, PEFT_CONFIG)
            return found, file_of_hub(repository, settings) if name == PEFT_FILE else None
    raise ConfigError(
        f"{repository} at the hub has neither {FILE} nor {PEFT_FILE}, or it cannot be reached and was not fetched "
        f"before; name its file, as in {repository}/NAME.safetensors, or give a folder"
    )


def _pickled(source: str, name: str) -> str:
    return f"the adapter {source} is pickled ({name}), and nothing is unpickled here; give it as .safetensors"


def _read_file(source: str, file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(file, framework="pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            metadata = opened.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ConfigError(f"the adapter {source} is no whole safetensors file: {str(error)[:200]}") from error
    if not tensors:
        raise ConfigError(f"the adapter {source} is empty: {file.name} holds no tensor")
    return tensors, metadata


def _diffusers_settings(metadata: Mapping[str, str]) -> Any:
    """peft's settings as diffusers writes them into a file, those of the transformer or U-Net."""
    found = json.loads(metadata.get("lora_adapter_metadata", "{}"))
    return {without_network(name): value for name, value in found.items()}


def fit(file: AdapterFile, transformer: nn.Module) -> Adapter:
    """Find the layer of every tensor.

    Raises:
        ConfigError: a tensor has no layer, no partner or a wrong shape.
    """
    linear = {name: module for name, module in transformer.named_modules() if isinstance(module, nn.Linear)}
    known, source = known_names(linear), file.source
    layers: dict[str, tuple[Tensor, Tensor]] = {}
    factors = _factors(file)
    strangers = [name for name in factors if bare_name(name) not in known]
    if strangers:
        raise ConfigError(
            f"the adapter {source} does not fit {type(transformer).__name__}: {len(strangers)} of its {len(factors)} "
            f"layers are not there, such as {strangers[0]}; it was made for another model"
        )
    for name, (a, b) in factors.items():
        targets = known[bare_name(name)]
        inputs, outputs = linear[targets[0]].in_features, [linear[target].out_features for target in targets]
        if a.ndim != 2 or b.ndim != 2 or a.shape[1] != inputs or b.shape[0] != sum(outputs) or len(a) != b.shape[1]:
            raise ConfigError(
                f"the adapter {source} does not fit {type(transformer).__name__}: its layer {name} has the shapes "
                f"{[*a.shape]} and {[*b.shape]}, where [rank, {inputs}] and [{sum(outputs)}, rank] are needed"
            )
        if has_swapped_halves(bare_name(name), inputs, sum(outputs)):
            b = torch.cat(b.chunk(2)[::-1])
        for target, part in zip(targets, b.split(outputs), strict=True):
            if target in layers:
                raise ConfigError(f"the adapter {source} holds {target} twice, under different names")
            layers[target] = (a, file.weight * part.contiguous())
    if not any(a.any() and b.any() for a, b in layers.values()):
        log.warning("the adapter %s changes nothing: it is zero in every layer", source)
    return Adapter(source, layers)


def _factors(file: AdapterFile) -> dict[str, tuple[Tensor, Tensor]]:
    """Name of a layer in the file -> A and scaled B."""
    halves: dict[str, dict[str, Tensor]] = {}
    for key, tensor in file.tensors.items():
        if found := _FACTOR.fullmatch(key):
            side = "A" if found[2].endswith(("A", "down")) else "B"
            name = found[1]
        elif found := _ALPHA.fullmatch(key):
            side, name = "alpha", found[1]
        else:
            raise ConfigError(f"the adapter {file.source} holds {key}, which is no part of a LoRA that is read here")
        if side in halves.setdefault(name, {}):
            raise ConfigError(f"the adapter {file.source} holds {name} twice, under different names")
        halves[name][side] = tensor.float()
    factors = {}
    for name, parts in halves.items():
        if not {"A", "B"} <= parts.keys():
            missing = "A (down)" if "A" not in parts else "B (up)"
            raise ConfigError(f"the adapter {file.source} is not whole: the layer {name} lacks its {missing}")
        a, b = parts["A"], parts["B"]
        factors[name] = (a, b * _scale(file.settings, name, len(a), parts.get("alpha")))
    return factors


def _scale(settings: Mapping[str, Any], name: str, rank: int, alpha: Tensor | None) -> float:
    """alpha / rank, or alpha / sqrt(rank) where peft's settings say so; 1 where nothing is said."""
    if alpha is not None:
        return float(alpha) / rank
    if "lora_alpha" not in settings:
        return 1.0
    name = without_network(name.removeprefix("base_model.model."))
    patterns = settings.get("alpha_pattern") or {}
    found = float(patterns.get(get_pattern_key(patterns.keys(), name), settings["lora_alpha"]))
    return found / (math.sqrt(rank) if settings.get("use_rslora") else rank)


def about(config: Config) -> dict[str, Any]:
    """What a run's export says of itself, beside its base."""
    return {"recipe": config.name, "alpha": config.policy.lora_alpha, "commit": commit(), "version": __version__}


def check_about(file: AdapterFile, family: str, base: str, base_fingerprint: str | None) -> None:
    """Compare what our export says of itself with the model that it is put on; files of others say nothing.

    Raises:
        ConfigError: it was trained on another family.
    """
    said = file.about
    if said.get("family", family) != family:
        raise ConfigError(f"the adapter {file.source} was trained on a {said['family']}, but {base} is a {family}")
    known, name = said.get("base_fingerprint"), said.get("base_model", base)
    differs = known != base_fingerprint if known and base_fingerprint else name != base
    if differs:
        log.warning("the adapter %s was trained on %s, and is now put on other weights: %s", file.source, name, base)


def attach(adapter: Adapter, transformer: nn.Module) -> None:
    """Put an adapter beside the base weights, in float32; every tensor of it is then in the transformer."""
    pattern = "|".join(re.escape(name) for name in adapter.layers)
    transformer.add_adapter(LoraConfig(r=1, lora_alpha=1, target_modules=pattern), adapter_name=NAME)  # type: ignore[operator]
    for name, (a, b) in adapter.layers.items():
        layer: Any = transformer.get_submodule(name)
        for factor, value in ((layer.lora_A[NAME], a), (layer.lora_B[NAME], b)):
            factor.weight = nn.Parameter(value.to(layer.weight.device), requires_grad=False)


@torch.no_grad()
def fuse(adapter: Adapter, transformer: nn.Module) -> None:
    """Add an adapter to the base weights: the sum is taken in float32 and rounded once.

    Raises:
        ConfigError: a sum is not finite in the weights' precision.
    """
    for name, (a, b) in adapter.layers.items():
        weight: Any = transformer.get_submodule(name).weight
        weight.copy_(weight.float() + (b @ a).to(weight.device))
        if not torch.isfinite(weight).all():
            raise ConfigError(f"the adapter {adapter.source} leaves {name} infinite in {weight.dtype}; use float32")


def of_factors(source: str, tensors: Mapping[str, Tensor]) -> Adapter:
    """An adapter of tensors in peft's names, scales multiplied in."""
    names = [name.removesuffix(".lora_A.weight") for name in tensors if name.endswith(".lora_A.weight")]
    return Adapter(
        source,
        {name: (tensors[f"{name}.lora_A.weight"].float(), tensors[f"{name}.lora_B.weight"].float()) for name in names},
    )


def added(adapters: list[Adapter]) -> Adapter:
    """The sum of adapters as one: a layer's ranks add up."""
    if len(adapters) == 1:
        return adapters[0]
    layers = {}
    for name in dict.fromkeys(name for adapter in adapters for name in adapter.layers):
        pairs = [adapter.layers[name] for adapter in adapters if name in adapter.layers]
        layers[name] = (torch.cat([a.cpu() for a, _ in pairs]), torch.cat([b.cpu() for _, b in pairs], 1))
    return Adapter(" + ".join(adapter.source for adapter in adapters), layers)


def join(adapters: list[Adapter]) -> dict[str, Tensor]:
    """The sum of adapters as one, in peft's names, with the same rank everywhere."""
    rank = sum(max(len(a) for a, _ in adapter.layers.values()) for adapter in adapters)
    tensors = {}
    for name, (a, b) in added(adapters).layers.items():
        spare = rank - len(a)
        tensors[f"{name}.lora_A.weight"] = nn.functional.pad(a, (0, 0, 0, spare))
        tensors[f"{name}.lora_B.weight"] = nn.functional.pad(b, (0, spare))
    return tensors


def write_adapter(
    directory: Path, tensors: Mapping[str, Tensor], said: Mapping[str, Any], network: str = "transformer"
) -> None:
    """Export an adapter, by peft's names, that a pipeline's `load_lora_weights(directory)` reads.

    Args:
        said: what the file says of itself, JSON-able.
        network: what the pipeline calls the network that has the layers.

    Raises:
        NonFiniteError: a weight is NaN or infinite; nothing is written.
    """
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise NonFiniteError(f"the adapter is not finite ({name}) and was not exported; lower learn.learning_rate")
    directory.mkdir(parents=True, exist_ok=True)
    temporary = directory / f".{FILE}.partial"
    named = {f"{network}.{name}": tensor.detach().contiguous() for name, tensor in tensors.items()}
    save_file(named, temporary, metadata={ABOUT: json.dumps(said, sort_keys=True)})
    temporary.replace(directory / FILE)
