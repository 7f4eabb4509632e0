"""An exported adapter in the forms of other programs: kohya's and ComfyUI's names, or merged into its pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file
from torch import Tensor

from advantageflow.adapter_names import has_swapped_halves, published_names, without_network
from advantageflow.adapters import Adapter, AdapterFile, fuse, of_factors, read_adapter
from advantageflow.errors import ConfigError

if TYPE_CHECKING:
    from advantageflow.models.base import FlowModel

KOHYA_FILE = "lora.safetensors"


def _own(file: AdapterFile) -> Adapter:
    """Of an export of ours."""
    return of_factors(file.source, {without_network(name): part for name, part in file.tensors.items()})


def to_kohya(adapter: Adapter, family: str) -> dict[str, Tensor]:
    """Tensors by kohya's names, which ComfyUI and other interfaces read: `lora_unet_NAME.lora_down.weight` and so on.

    NAME is that of the model's first publication, where queries, keys and values are one layer: their A stand one below
    the other, their B on a diagonal, and the rank is three times as large. What was not published so keeps its name.

    Args:
        family: class of the pipeline.
    """
    tensors: dict[str, Tensor] = {}
    for name, targets in published_names(adapter.layers, family).items():
        pairs = [adapter.layers[target] for target in targets]
        a, b = torch.cat([a for a, _ in pairs]), torch.block_diag(*[b for _, b in pairs])
        if has_swapped_halves(name, a.shape[1], len(b)):
            b = torch.cat(b.chunk(2)[::-1])
        tensors |= {
            f"lora_unet_{name}.lora_down.weight": a.contiguous(),
            f"lora_unet_{name}.lora_up.weight": b.contiguous(),
            f"lora_unet_{name}.alpha": torch.tensor(float(len(a))),
        }
    return tensors


def write_kohya(folder: Path, output: Path) -> None:
    """Write the adapter of an export into OUTPUT/lora.safetensors."""
    file = read_adapter(str(folder))
    said = {f"ss_{name}": str(value) for name, value in file.about.items()}
    save_file(to_kohya(_own(file), str(file.about["family"])), output / KOHYA_FILE, metadata=said)


def write_merged(model: FlowModel, folder: Path | None, output: Path) -> None:
    """Write the whole pipeline, with an export added to its weights where there is one.

    Raises:
        ConfigError: the base is quantized, or a sum is not finite in its precision.
    """
    if model.settings.quantization:
        raise ConfigError("a quantized base is too coarse to merge into; give --format diffusers or kohya")
    if folder is not None:
        fuse(_own(read_adapter(str(folder))), model.transformer)
    model.pipeline.save_pretrained(output, safe_serialization=True)
