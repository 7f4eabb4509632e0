"""From a scored rollout to losses: the only code that knows model, policy and formula.

Every family lists *cases* and looks at batches of them. A case of a forward-process method is an image noised afresh,
of a reverse-process method one recorded transition, and of a gradient method an image drawn on from a recorded state.
Cases are independent (but for `Method.whole_groups`), so the batch size changes memory and speed but not the gradient.
"""

from advantageflow.learning.base import Family, Scored, Terms
from advantageflow.learning.forward import ForwardFamily
from advantageflow.learning.gradient import GradientFamily
from advantageflow.learning.reverse import ReverseFamily

FAMILIES: dict[str, type[Family]] = {
    "forward": ForwardFamily,
    "reverse": ReverseFamily,
    "gradient": GradientFamily,
}

__all__ = ["FAMILIES", "Family", "Scored", "Terms"]
