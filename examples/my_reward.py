"""A reward of your own: images and prompts in, one float for each image out, higher is better.

advantageflow rewards check ./examples/my_reward.py:warmth
advantageflow train reward=./examples/my_reward.py:warmth run.iterations=20
"""

from collections.abc import Sequence

from torch import Tensor


def warmth(images: Tensor, prompts: Sequence[str]) -> list[float]:
    """How much more red than blue a picture is, -1 to 1.

    Args:
        images: float32 [batch, 3, height, width] in [0, 1], on the CPU.
        prompts: one for each image.
    """
    red, _, blue = images.mean((2, 3)).unbind(1)
    return (red - blue).tolist()
