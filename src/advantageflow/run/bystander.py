"""A run's folder as the other processes of the run have it: the first one alone writes, and reads for all of them."""

from __future__ import annotations

from typing import Any

from advantageflow.run.directory import RunDirectory


class Bystander(RunDirectory):
    """Writes nothing, and knows of no checkpoint."""

    writes = False

    def latest_record(self) -> dict[str, Any]:
        return {}

    def _nothing(self, *arguments: Any, **options: Any) -> None:
        """What is for the first process to do."""

    append_metrics = keep_metrics = note_changes = write_config = unfinish = _nothing
    save_checkpoint = export = _nothing
    write_prompts = write_summary = write_base_scores = write_samples = write_before_after = draw_curve = _nothing
