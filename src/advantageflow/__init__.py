"""AdvantageFlow: reinforcement learning for rectified-flow image generators."""

__version__ = "0.1.0"
