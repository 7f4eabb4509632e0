"""The drawn words: pictures of three or four capital letters, and a small pre-trained SD3 pipeline that draws them."""

from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"
