"""Launchers start the same command once for every GPU; a run is one process, and says so."""

from __future__ import annotations

import os

from advantageflow.errors import ConfigError

# What a launcher says of the number of processes that it started together
SIZES = {
    "WORLD_SIZE": "torchrun or accelerate launch",
    "SLURM_STEP_NUM_TASKS": "srun",
    "OMPI_COMM_WORLD_SIZE": "mpirun",
    "PMI_SIZE": "mpiexec",
}


def check_single_process() -> None:
    """Raise ConfigError where a launcher started several processes of this command."""
    for variable, launcher in SIZES.items():
        size = os.environ.get(variable, "1")
        if size.isdigit() and int(size) > 1:
            raise ConfigError(
                f"this is one of {size} processes ({variable}, by {launcher}), but a run is one process on one GPU: "
                "start it without the launcher; several runs at once are what advantageflow compare --jobs does"
            )
