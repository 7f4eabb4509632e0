"""Which of several processes this is, as a launcher tells it in the environment; read without PyTorch."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from advantageflow.errors import ConfigError

# What other launchers say of the number of processes that they started together
OTHERS = {"OMPI_COMM_WORLD_SIZE": "mpirun", "PMI_SIZE": "mpiexec"}
FIRST_PORT, PORTS = 20000, 20000  # of Slurm's jobs, each its own


@dataclass(frozen=True)
class Place:
    """Number `rank` of `size` processes, and number `local` of those on its machine."""

    rank: int = 0
    size: int = 1
    local: int = 0


def place(environment: Mapping[str, str] = os.environ) -> Place:
    """This process among those that torchrun, accelerate launch, srun or `--processes` started together.

    Raises:
        ConfigError: another launcher started it, which does not say where the processes meet.
    """
    if _number(environment, "WORLD_SIZE", 1) > 1:
        rank = _number(environment, "RANK", 0)
        return Place(rank, _number(environment, "WORLD_SIZE", 1), _number(environment, "LOCAL_RANK", rank))
    if (size := _number(environment, "SLURM_STEP_NUM_TASKS", 1)) > 1:
        return Place(_number(environment, "SLURM_PROCID", 0), size, _number(environment, "SLURM_LOCALID", 0))
    for variable, launcher in OTHERS.items():
        if (size := _number(environment, variable, 1)) > 1:
            raise ConfigError(
                f"this is one of {size} processes ({variable}, by {launcher}); start them with --processes, torchrun, "
                "accelerate launch or srun, which say where they meet"
            )
    return Place()


def meeting_point(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT; of a Slurm step its first host, and a port by its job.

    Raises:
        ConfigError: nothing says where the processes meet.
    """
    mine = place(environment)
    host = environment.get("MASTER_ADDR") or first_host(environment.get("SLURM_STEP_NODELIST", ""))
    job = _number(environment, "SLURM_JOB_ID", 0)
    port = environment.get("MASTER_PORT") or (str(FIRST_PORT + job % PORTS) if job else "")
    if not host or not port:
        raise ConfigError(
            f"this is one of {mine.size} processes, but MASTER_ADDR or MASTER_PORT is missing, which say where they "
            "meet; start them with --processes, torchrun, accelerate launch or srun"
        )
    return {"RANK": str(mine.rank), "WORLD_SIZE": str(mine.size), "MASTER_ADDR": host, "MASTER_PORT": port}


def first_host(nodes: str) -> str:
    """The first of Slurm's list of hosts, as in "gpu[07-09,12],login1"."""
    found = re.match(r"([^,\[]+)(?:\[([^-,\]]+))?", nodes)
    return found[1] + (found[2] or "") if found else ""


def check_single_process(command: str) -> None:
    """Raise ConfigError where several processes of a command were started that is one process."""
    size = place().size
    if size > 1:
        raise ConfigError(
            f"this is one of {size} processes, but advantageflow {command} is one process: start it without the "
            "launcher; compare and reproduce start processes of their own, as many as --jobs says"
        )


def _number(environment: Mapping[str, str], name: str, default: int) -> int:
    text = environment.get(name, "")
    return int(text) if text.isdigit() else default
