"""The embedded default: a drawn world, its exact verifier, and a small pre-trained SD3 pipeline."""

from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"
