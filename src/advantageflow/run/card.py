"""The card of an adapter: what makes its folder a repository of the hub that says what it holds."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advantageflow import __version__
from advantageflow.config import WORLDS, dump_config
from advantageflow.run.checkpoint import write_atomic
from advantageflow.run.samples import read_samples, sampled_iterations
from advantageflow.tables import markdown_table

if TYPE_CHECKING:
    from advantageflow.config import Config
    from advantageflow.run.directory import RunDirectory

SHOWN = 6  # pictures
HERE = "PATH/TO/THIS/FOLDER"
ADDRESS = re.compile(r'(?<=load_lora_weights\(")[^"]*|(?<=--lora )\S*')  # of a repository, in a card
# Licences of bases that are known: what holds for the base holds for what was derived from it
LICENSES: dict[str, dict[str, str]] = {
    "stabilityai/stable-diffusion-3.5-medium": {"license": "other", "license_name": "stabilityai-ai-community"},
    "stabilityai/stable-diffusion-3.5-large": {"license": "other", "license_name": "stabilityai-ai-community"},
    "black-forest-labs/FLUX.1-dev": {"license": "other", "license_name": "flux-1-dev-non-commercial-license"},
    "black-forest-labs/FLUX.1-schnell": {"license": "apache-2.0"},
    "Qwen/Qwen-Image": {"license": "apache-2.0"},
    **{world: {"license": "apache-2.0"} for world in WORLDS},
}
LOADING = """```python
import torch
from diffusers import DiffusionPipeline

pipeline = DiffusionPipeline.from_pretrained("{base}", torch_dtype=torch.bfloat16).to("cuda")
pipeline.load_lora_weights("{repository}", adapter_name="{name}")
image = pipeline({prompt!r}, num_inference_steps={steps}, guidance_scale={guidance}).images[0]
```"""
BUILT_IN = """Its base is the small model `{base}` inside [advantageflow](https://pypi.org/project/advantageflow):

```sh
advantageflow sample {typed} --model {base} --lora {repository}
```"""


def write_card(
    directory: RunDirectory, folder: Path, summary: Mapping[str, Any], repository: str = HERE, *, keep: bool = False
) -> bool:
    """Write README.md, the pictures that it shows and the recipe into the folder of a finished run's adapter.

    Args:
        summary: of the run.
        repository: OWNER/NAME where it will be.
        keep: a README.md that somebody has changed, but for its repository.

    Returns:
        Whether it was kept.
    """
    config = directory.config()
    drawn = sampled_iterations(directory.samples)
    shown = read_samples(directory.samples, drawn[-1])[:SHOWN] if drawn else []
    images = folder / "images"
    shutil.rmtree(images, ignore_errors=True)
    images.mkdir()
    for number, sample in enumerate(shown):
        sample.picture.convert("RGB").save(images / f"{number}.png")
    write_atomic(folder / "config.yaml", dump_config(config))
    prompts = [sample.prompt for sample in shown]
    file, text = folder / "README.md", f"---\n{_front(config, prompts)}---\n\n"
    text += _body(config, summary, prompts, repository)
    there = file.read_text(encoding="utf-8") if keep and file.is_file() else text
    changed = ADDRESS.sub("", there) != ADDRESS.sub("", text)
    write_atomic(file, there.replace(HERE, repository) if changed else text)
    return changed


def _front(config: Config, prompts: list[str]) -> str:
    """The YAML that the hub reads."""
    import yaml

    base = config.model.path
    facts: dict[str, Any] = {
        **({} if base in WORLDS or Path(base).exists() else {"base_model": base}),
        "library_name": "diffusers",
        "pipeline_tag": "text-to-image",
        "tags": ["text-to-image", "lora", "diffusers", "reinforcement-learning", "advantageflow"],
        **LICENSES.get(base, {}),
        "widget": [{"text": prompt, "output": {"url": f"images/{i}.png"}} for i, prompt in enumerate(prompts)],
    }
    return str(yaml.safe_dump(facts, sort_keys=False, allow_unicode=True))


def _body(config: Config, summary: Mapping[str, Any], prompts: list[str], repository: str) -> str:
    base, policy, method, settings = config.model.path, config.policy, config.objective, config.evaluation
    steps, images = settings.num_inference_steps, settings.num_images
    rewards = " + ".join(
        name if weight == 1 else f"{weight:g} × {name}" for name, weight in config.reward_weights.items()
    )
    prompt = (prompts or ["a red circle"])[0]
    rows = []
    for label, name in settings.rewards.items():
        values = [summary[part].get(label) for part in ("before", "after")]
        change = (summary.get("difference") or {}).get(label) or {}
        gain, low, high = (_shown(change.get(part), "+.3f") for part in ("value", "low", "high"))
        rows.append([label, f"`{name}`", *(_shown(value, ".3f") for value in values), f"{gain} [{low}, {high}]"])
    loading = (BUILT_IN if base in WORLDS else LOADING).format(
        base=base,
        repository=repository,
        name=config.name,
        prompt=prompt,
        typed=shlex.quote(prompt),
        steps=steps,
        guidance=settings.guidance_scale,
    )
    licence = "" if base in LICENSES else "\nThe licence of the base model holds for this adapter too.\n"
    scores = markdown_table(["score", "reward", "base model", "with this adapter", "difference, 95 %"], rows)
    return f"""# {config.name}

A LoRA (rank {policy.lora_rank}, alpha {policy.lora_alpha:g}) of `{base}`, trained with {method.title} ({method.paper})
on {rewards or "pairs of images"} in {summary["iterations"]} iterations, by advantageflow {__version__}.
{licence}
## Scores on held-out prompts

{images} images, {steps} steps, guidance {settings.guidance_scale:g}, the same prompts and noise for both.

{scores}

## Use

{loading}

## How it was made

`advantageflow train config.yaml`, with the [config.yaml](config.yaml) of this folder.
"""


def _shown(value: float | None, form: str) -> str:
    """A number; a dash where it is not known."""
    return "–" if value is None else format(value, form)
