"""Which process of a run is the first, whatever has started them."""

from __future__ import annotations

import pytest

from imagegen.run import LAUNCH_VARIABLES, _has_peers, is_first_process

SLURM = {"SLURM_NTASKS": "4", "SLURM_JOB_NAME": "train", "SLURM_NTASKS_PER_NODE": "2"}


@pytest.mark.parametrize(
    ("variables", "is_first", "has_peers"),
    [
        pytest.param({}, True, False, id="alone"),
        pytest.param({"LOCAL_RANK": "1", "WORLD_SIZE": "2"}, False, True, id="started by the first"),
        pytest.param({"NODE_RANK": "1", "WORLD_SIZE": "2"}, False, True, id="first of the second node"),
        pytest.param({"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "4"}, True, True, id="torchrun"),
        pytest.param({"RANK": "2", "LOCAL_RANK": "0", "WORLD_SIZE": "4"}, False, True, id="torchrun, second node"),
        pytest.param({**SLURM, "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}, True, True, id="srun"),
        pytest.param({**SLURM, "SLURM_PROCID": "2", "SLURM_LOCALID": "0"}, False, True, id="srun, second node"),
        pytest.param({**SLURM, "SLURM_NTASKS": "1", "SLURM_PROCID": "0"}, True, False, id="one task"),
    ],
)
def test_the_first_process(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], is_first: bool, has_peers: bool
) -> None:
    for name in (*LAUNCH_VARIABLES, "RANK", "SLURM_PROCID", *SLURM):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert is_first_process() == is_first
    assert _has_peers() == has_peers
