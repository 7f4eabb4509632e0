"""AdvantageFlow's loss in a plain diffusers and peft script: one optimizer step of a Stable Diffusion 3 pipeline.

    python examples/train_step.py            # the built-in model, seconds on a CPU

For another pipeline replace MODEL, the prompts and the reward, and load its third text encoder.
"""

import torch
from diffusers import StableDiffusion3Pipeline
from peft import LoraConfig

from advantageflow.advantages import group_advantages
from advantageflow.objectives import AdvantageFlow
from advantageflow.rewards import load_reward
from advantageflow.worlds.scenes import WEIGHTS as MODEL

PROMPTS, IMAGES = ["a red circle", "three rings"], 4
prompts = [prompt for prompt in PROMPTS for _ in range(IMAGES)]
groups = torch.arange(len(PROMPTS)).repeat_interleave(IMAGES)  # whose images are compared with each other

torch.manual_seed(0)
pipeline = StableDiffusion3Pipeline.from_pretrained(MODEL, text_encoder_3=None, tokenizer_3=None)
pipeline.set_progress_bar_config(disable=True)
transformer = pipeline.transformer.requires_grad_(False)
transformer.add_adapter(LoraConfig(r=8, lora_alpha=16, target_modules=["to_q", "to_k", "to_v", "to_out.0"]))
optimizer = torch.optim.AdamW((p for p in transformer.parameters() if p.requires_grad), lr=3e-4)
method, reward = AdvantageFlow(gamma=1.1), load_reward("scenes_graded")

# Draw. This step's weights are the rollout policy's; over many steps keep a slow copy of them and draw with that.
with torch.no_grad():
    options = {"guidance_scale": 1.0, "max_sequence_length": 0}  # 0: no tokens of the third text encoder
    x0 = pipeline(prompts, num_inference_steps=10, output_type="latent", **options).images
    vae = pipeline.vae
    decoded = vae.decode(x0 / vae.config.scaling_factor + vae.config.shift_factor).sample
    embeddings, _, pooled, _ = pipeline.encode_prompt(
        prompts, None, None, do_classifier_free_guidance=False, max_sequence_length=0
    )

# Score: float32 [batch, 3, height, width] in [0, 1], and one float for each image
rewards = torch.tensor(reward((decoded / 2 + 0.5).clamp(0, 1), prompts))
advantage = group_advantages(rewards, groups)

# Learn from one time of each image
t, noise = torch.rand(len(prompts)), torch.randn_like(x0)
x_t = x0 + t.view(-1, 1, 1, 1) * (noise - x0)


def velocity() -> torch.Tensor:
    return transformer(x_t, embeddings, pooled, timestep=1000 * t, return_dict=False)[0]


with torch.no_grad():
    v_old = velocity()
    transformer.disable_adapters()
    v_ref = velocity()
    transformer.enable_adapters()
loss = method.loss(velocity(), v_old, v_ref, x0=x0, x_t=x_t, t=t, advantage=advantage.to(x0.dtype)).mean()
loss.backward()
optimizer.step()
print(f"rewards {rewards.mean():.3f}, loss {loss.item():.4f}")
