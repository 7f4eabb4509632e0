"""Objectives: pure functions of tensors, one file per method, known to no model and no optimizer.

A forward-process objective sees velocities at freshly noised images; a reverse-process objective sees the
log-probabilities of a recorded SDE trajectory. `family` says which, and the trainer provides it.
"""

from advantageflow.objectives.advantageflow import AdvantageFlow
from advantageflow.objectives.diffusion_nft import DiffusionNFT
from advantageflow.objectives.flow_grpo import FlowGRPO

# By the name that recipes use.
OBJECTIVES = {"advantageflow": AdvantageFlow, "nft": DiffusionNFT, "flow-grpo": FlowGRPO}

__all__ = ["OBJECTIVES", "AdvantageFlow", "DiffusionNFT", "FlowGRPO"]
