"""What Stable Diffusion 1.5 and XL share: a U-Net that tells the noise, or v, on a path of a thousand steps."""

from __future__ import annotations

import inspect
from typing import Any, ClassVar

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn

from advantageflow.config import ModelSettings
from advantageflow.errors import ConfigError, shown
from advantageflow.flow import Predicts, tabulated
from advantageflow.models.base import Conditioning, FlowModel
from advantageflow.policy import LORA_TARGETS, PROJECTIONS

PREDICTS: dict[str, Predicts] = {"epsilon": "epsilon", "v_prediction": "v_prediction", "sample": "sample"}


class UNetModel(FlowModel):
    """α² is the scheduler's cumulative product and α² + σ² = 1; its step k is the time (k + 1) / 1000, 0 the image.

    Whatever scheduler the pipeline has, images are drawn at the times that its spacing gives to diffusers'
    `DDIMScheduler`, down to the last noise that the scheduler itself goes to, and nothing is clipped. With the solver
    `euler` they are then the `DDIMScheduler`'s to the bit, where its steps are evenly spaced, and those of the
    `EulerDiscreteScheduler` up to rounding.
    """

    transformer_class = UNet2DConditionModel
    network = "unet"
    lora_targets: ClassVar[dict[str, tuple[str, ...]]] = dict.fromkeys(LORA_TARGETS, PROJECTIONS)
    guides_in_one_call = True

    def __init__(self, pipeline: Any, settings: ModelSettings | None = None) -> None:
        super().__init__(pipeline, settings)
        config = pipeline.scheduler.config
        kind = config.get("prediction_type", "epsilon")
        if kind not in PREDICTS:
            raise ConfigError(
                f"the scheduler of {self.settings.path} has the prediction_type {shown(kind)}; known: "
                f"{', '.join(PREDICTS)}"
            )
        self.predicts = PREDICTS[kind]
        chosen = inspect.signature(type(pipeline.scheduler)).parameters.keys() & {"set_alpha_to_one"}
        self.schedule = DDIMScheduler.from_config(
            config, set_alpha_to_one=config.set_alpha_to_one if chosen else True, clip_sample=False, thresholding=False
        )
        left = torch.cat([torch.ones(1), self.schedule.alphas_cumprod])
        self.path = tabulated(left**0.5, (1 - left) ** 0.5)

    @property
    def own_size(self) -> int:
        size = self.architecture.sample_size
        return int(size if isinstance(size, int) else size[0])

    @property
    def table_size(self) -> int:
        """Steps of the path that the network was trained on, 1000 as a rule."""
        return len(self.schedule.alphas_cumprod)

    def sigmas(self, num_steps: int) -> Tensor:
        """From the first step that the scheduler's spacing has, near 1, to 0, or to step 0 where it ends there."""
        self.schedule.set_timesteps(num_steps)
        end = self.schedule.final_alpha_cumprod != 1
        return torch.cat([self.schedule.timesteps.double() + 1, torch.tensor([end], dtype=torch.float64)]) / (
            self.table_size
        )

    def predict(self, transformer: nn.Module, x_t: Tensor, timestep: Tensor, prompt: Conditioning) -> Tensor:
        steps = (timestep * (self.table_size / 1000) - 1).clamp(min=0)
        found: Tensor = transformer(
            x_t,
            steps,
            encoder_hidden_states=prompt.tokens,
            added_cond_kwargs=self.added(x_t, prompt),
            return_dict=False,
        )[0]
        return found

    def added(self, x_t: Tensor, prompt: Conditioning) -> dict[str, Tensor] | None:
        """What the network is told beside the prompt's tokens."""
        return None
