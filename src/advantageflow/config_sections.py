"""The sections of a recipe: every setting with its type, default, bounds and meaning, which the reference shows."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from advantageflow.config_rules import WORLDS
from advantageflow.config_types import (
    LARGE,
    MOST_SHOWN,
    BatchSize,
    Count,
    Fraction,
    NonNegative,
    NumberShown,
    PathText,
    Pixels,
    Positive,
    Section,
    Trackers,
)
from advantageflow.evaluated import DEFAULT_REWARD
from advantageflow.rewards.own import pooled

ODESolver = Literal["dpm2", "euler", "heun"]
SDESolver = Literal["flow_sde", "dance_sde", "cps", "ddim", "memoryless"]


class ModelSettings(Section):
    """The network that is trained, and how it is held in memory."""

    path: PathText = Field(
        "scenes",
        description="scenes, words or scenes-meanflow (built in), a diffusers pipeline folder, hub name or file",
    )
    base: PathText | None = Field(
        None, description="where path is a single file: the pipeline that has all but the transformer"
    )
    lora: PathText | None = Field(
        None,
        description="a path or hub name, or several, ONE:0.7+OTHER, to start from: fused, so the reference, too",
    )
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="of the network; LoRA weights stay float32"
    )
    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|mps|cuda(:\d{1,3})?)$",
        description='"auto" (CUDA if present), "cpu", "cuda", "cuda:1", "mps"',
    )
    resolution: Pixels | tuple[Pixels, Pixels] | None = Field(
        None, description="pixels: one number, or [height, width]; null for the model's own"
    )
    max_sequence_length: Annotated[int, Field(ge=0, le=10**5)] | None = Field(
        None,
        description="text tokens of T5 or the language model; 0 leaves out Stable Diffusion 3's T5; null for the usual",
    )
    distilled_guidance: NonNegative = Field(
        3.5, description="what a guidance-distilled network (FLUX.1-dev, FLUX.2-dev) is told"
    )
    gradient_checkpointing: bool = Field(False, description="compute activations again rather than keep them")
    vae_slicing: bool = Field(False, description="decode one image at a time")
    offload: bool = Field(False, description="keep text encoders and VAE off the GPU between uses")
    attention: str | None = Field(None, description="a diffusers attention backend, such as flash or sage")
    compile: bool = Field(False, description="compile the transformer's repeated blocks")
    shard: bool = Field(False, description="part the base's weights among the processes of a run; needs LoRA")
    quantization: Literal["fp8", "8bit", "4bit"] | None = Field(
        None,
        description="of the base weights: fp8 holds them in 8 bits and computes in dtype; others need bitsandbytes",
    )
    prompt_cache: PathText | None = Field(None, description="folder that keeps prompt embeddings between runs")


class PolicySettings(Section):
    """What is trained of the model, and the slow copies of it."""

    lora_rank: Annotated[int, Field(ge=0, le=4096)] = Field(32, description="0 trains all weights")
    lora_alpha: Positive = Field(64, description="the adapter is scaled by lora_alpha / lora_rank")
    lora_targets: Literal["attention", "all_attention", "linear"] = Field(
        "attention",
        description="attention as arXiv 2509.16117's code has it, or SD3.5's second attention (attn2) as well, or all "
        "linear layers of the blocks",
    )
    rollout_decay: Literal[0, 1, 2] | Annotated[float, Field(gt=0, lt=1)] = Field(
        1, description="of the rollout policy: arXiv 2509.16117's schedule 0, 1 or 2, or a constant between 0 and 1"
    )
    rollout_every: Count = Field(1, description="iterations between updates of the rollout policy")
    average_decay: Annotated[float, Field(ge=0, lt=1)] = Field(0.9, description="of the weights that are evaluated")


class PromptSettings(Section):
    """What images are drawn of."""

    train: PathText | None = Field(
        None, description="a set, a file, or a dataset of the hub; a built-in model has prompts of its own"
    )
    held_out: PathText | Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None, description="likewise, or the share of the training prompts to hold out; null for a tenth, at most 500"
    )
    column: str = Field("prompt", description="that holds the prompt, in files with columns")
    task_column: str = Field("tag", description="that holds the prompt's task, if there is one")

    @model_validator(mode="before")
    @classmethod
    def _hold_out_of_the_same_world(cls, given: Any) -> Any:
        train = given.get("train") if isinstance(given, dict) else None
        if isinstance(train, str) and train in {f"{world}:train" for world in WORLDS.values()}:
            return {"held_out": train.replace("train", "held_out"), **given}
        return given


class RolloutSettings(Section):
    """How the images that are learned from are drawn."""

    source: PathText | None = Field(
        None, description="a .jsonl file of pairs to learn from in place of images that the policy draws"
    )
    guidance_scale: NonNegative = Field(1.0, description="classifier-free guidance while sampling; 1 is none")
    prompts_per_iteration: Annotated[int, Field(ge=1, le=10**5)] = Field(
        32, description="of all processes together; each prompt has images_per_prompt images"
    )
    images_per_prompt: Annotated[int, Field(ge=2, le=10**5)] = Field(
        4, description="the group size; advantages need 2 or more"
    )
    num_inference_steps: Annotated[int, Field(ge=2, le=1000)] = Field(10, description="of the sampler")
    solver: ODESolver | SDESolver = Field(
        "dpm2", description="an ODE's (the first three), or the kind of an SDE's steps"
    )
    noise_level: Positive = Field(0.7, description="of an SDE")
    batch_size: BatchSize = Field(64, description="images sampled at once, fewer where memory runs out; or auto")
    drafts: Annotated[int, Field(ge=1, le=1000)] = Field(
        1,
        description="draw so many cheap drafts for each image; a prompt's best and worst are drawn in full; 1 for none",
    )
    drafting_steps: Annotated[int, Field(ge=2, le=1000)] = Field(4, description="of the sampler, for drafts")
    ahead: Literal[0, 1] = Field(
        0, description="iterations that are drawn before an earlier one is scored and learned from, for slow rewards"
    )

    @property
    def drafted(self) -> int:
        """Drafts for each image; 0 where none are drawn."""
        return self.drafts if self.drafts > 1 else 0


class AdvantageSettings(Section):
    """How much better than its prompt's other images an image is."""

    normalize: Literal[
        "centered_rms", "raw_std", "centered", "group_std", "group_softmax", "group_best", "group_rank"
    ] = Field("centered_rms", description="what a reward's distance from its prompt's mean is divided by")
    clip: Positive = Field(1.0, description="advantages are kept between -clip and clip")
    recenter: bool = Field(False, description="subtract the mean of a prompt's advantages after the clip")
    temperature: Positive = Field(1.0, description="of group_softmax, in units of the batch's spread")


class ScoringSettings(Section):
    """How rewards are called, and become one."""

    combine: Literal["sum", "standardize", "gdpo"] = Field("sum", description="how several rewards become one")
    attempts: Count = Field(2, description="calls of a reward that raises or hangs, before the run stops")
    timeout: Positive = Field(600, description="seconds that a call of a reward may take")


class LearnSettings(Section):
    """Noised copies or transitions, and the optimizer."""

    t_distribution: Literal["uniform", "rollout_grid", "logit_normal"] = Field(
        "rollout_grid", description="where noised copies lie between image (0) and noise (1); the grid is the sampler's"
    )
    t_range: tuple[Fraction, Fraction] = Field(
        (0, 1), description="of uniform and logit_normal times: squeezed between these two"
    )
    share: Literal["group"] | None = Field(
        None,
        description="group: the images of a prompt are noised alike, at equal times, and learned from in one step",
    )
    t_draws: Count = Field(
        9, description="noised copies of each image (forward) or transitions (reverse) to learn from"
    )
    transitions: Count | None = Field(
        None, description="of an SDE: learn from the first so many only; null for all but the last"
    )
    optimizer_steps: Count = Field(1, description="steps per iteration, each on an equal part of the images")
    batch_size: BatchSize = Field(
        256, description="noised copies in one call, fewer where memory runs out; or auto; does not change the result"
    )
    accumulate: Literal["float64", "float32"] = Field("float64", description="of sums of gradients; float32 takes half")
    learning_rate: Annotated[float, Field(gt=0, le=10)] = Field(3e-4, description="of the optimizer, after the warm-up")
    schedule: Literal["constant", "linear", "cosine"] = Field(
        "constant", description="of the learning rate after the warm-up; the others fall to 0 at the last iteration"
    )
    warmup_steps: Annotated[int, Field(ge=0, le=10**8)] = Field(
        0, description="optimizer steps over which the learning rate grows from 0"
    )
    optimizer: Literal["adamw", "adamw_8bit"] = Field("adamw", description="adamw_8bit needs bitsandbytes")
    weight_decay: NonNegative = Field(1e-4, description="of AdamW")
    beta2: Annotated[float, Field(gt=0, lt=1)] = Field(0.999, description="of AdamW, the memory of squared gradients")
    max_grad_norm: Positive = Field(1.0, description="a step's gradient is scaled down to this norm")
    max_grad_norm_ratio: Literal[0] | Annotated[float, Field(gt=1, le=LARGE)] = Field(
        30, description="skip a step whose gradient norm is over so many times the median of the 20 before; 0 for never"
    )


class EvaluationSettings(Section):
    """Held-out scores and pictures."""

    rewards: dict[str, Annotated[str, BeforeValidator(pooled)]] = Field(
        {"reward": DEFAULT_REWARD}, description="label -> reward; the first goes by task"
    )
    num_images: Count = Field(480, description="held-out images that are scored")
    num_inference_steps: Annotated[int, Field(ge=2, le=1000)] = Field(
        10, description="of the sampler, for held-out images"
    )
    guidance_scale: Positive = Field(1.0, description="classifier-free guidance of held-out images; 1 is none")
    every: Annotated[int, Field(ge=0, le=10**8)] = Field(
        0, description="iterations between evaluations; 0 for start and end only"
    )
    prompts_shown: NumberShown | Annotated[list[str], Field(min_length=1, max_length=MOST_SHOWN)] = Field(
        24, description="of which pictures are kept through training: so many held-out prompts, or a list of your own"
    )

    def is_due(self, iteration: int) -> bool:
        """Whether the policy is evaluated after so many iterations, in the middle of a run."""
        return self.every > 0 and iteration % self.every == 0

    @property
    def number_shown(self) -> int:
        """How many pictures are kept of each moment."""
        return self.prompts_shown if isinstance(self.prompts_shown, int) else len(self.prompts_shown)

    @property
    def shows_evaluated(self) -> bool:
        """Whether these pictures are the first of those that are evaluated."""
        return isinstance(self.prompts_shown, int) and self.prompts_shown <= self.num_images


class RunSettings(Section):
    """How long, what is kept, and when it stops by itself."""

    iterations: Count = Field(1000, description="of drawing, scoring and learning, in the whole run")
    max_seconds: Positive | None = Field(None, description="of training, evaluation aside, after which the run ends")
    checkpoint_every: Count = Field(10, description="iterations between checkpoints")
    checkpoint_minutes: Positive = Field(10, description="between checkpoints, at most")
    keep: Count = Field(2, description="how many of the newest checkpoints are kept, beside the best")
    best: str | None = Field(
        None, description="label of the held-out score whose best checkpoint is kept; null for the first"
    )
    constant_rewards_stop: Annotated[int, Field(ge=0)] = Field(
        20, description="stop after so many iterations in which no prompt's rewards differ; 0 for never"
    )
    spikes_stop: Annotated[int, Field(ge=0, le=10**8)] = Field(
        10, description="stop after so many steps in a row that learn.max_grad_norm_ratio skipped; 0 for never"
    )
    constant_groups_warn: Annotated[float, Field(gt=0, le=1)] = Field(
        0.8, description="warn where a larger share of prompts have images of equal reward; 1 for never"
    )
    samples_every: Count = Field(10, description="iterations between pictures of the held-out prompts")
    probe_every: Annotated[int, Field(ge=0, le=10**8)] = Field(
        10, description="iterations between measurements of gradients by the advantage's sign; 0 for never"
    )
    threads: Annotated[int, Field(ge=0, le=1024)] = Field(0, description="CPU threads; 0 for PyTorch's choice")
    trackers: Trackers = Field([], description="that show the run, beside its folder")
