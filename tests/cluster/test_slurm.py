"""The queue through a real one-node SLURM: runs requeued, then their node lost, end with an undisturbed run's bits.

Needs root and Debian's slurm-wlm and munge: ``make test-cluster`` installs and starts them.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from support import COMPARED, assert_same_bits, environment, tiny_checkout, tiny_config

from ssn_core.runs.profiles import run_command
from ssn_core.runs.store import load_run

SCRIPT = Path(__file__).with_name("slurm.sh")
EPOCHS = 40
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "munged")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not os.environ.get("SSN_TEST_CLUSTER"), reason="starts SLURM as root; `make test-cluster` does"),
    pytest.mark.skipif(
        any(shutil.which(p) is None for p in PROGRAMS), reason=f"no {' or '.join(PROGRAMS)}: `make test-cluster`"
    ),
]


class Cluster:
    """The cluster of one folder, and a checkout with two runs in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = environment(SLURM_CONF=str(folder / "slurm.conf"))
        experiments = {"scenario_a": {"categories": ["ring", "weave"]}}
        self.root = tiny_checkout(folder / "checkout", experiments, epochs=EPOCHS)
        self.configs = [tiny_config(category=name, epochs=EPOCHS) for name in ("ring", "weave")]

    def control(self, action: str) -> None:
        subprocess.run(["sh", str(SCRIPT), action, str(self.folder)], check=True, timeout=120)

    def say(self, *command: str) -> str:
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60).stdout

    def queue(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "snakemake", "runs", "--profile", "profiles/slurm", "--config", "profile=tiny"]
        command += ["--seconds-between-status-checks", "1", "--latency-wait", "5"]
        log = open(self.folder / "queue.log", "a")
        return subprocess.Popen(command, cwd=self.root, env=self.environment, stdout=log, stderr=log, text=True)

    def log(self, index: int) -> str:
        path = self.root / "build/tiny/log" / f"{self.configs[index].run_id}.log"
        return path.read_text() if path.is_file() else ""

    def start(self, index: int) -> int:
        """The epoch from which a run was started last; -1 where it has not begun to train."""
        found = re.search(r"training on cpu, epoch (\d+) of", self.log(index))
        return int(found[1]) if found else -1

    def train(self, least: int) -> bool:
        """Whether both runs, started from some epoch on or a later one, are two epochs further."""
        done = [re.findall(r" epoch (\d+)/", self.log(index)) for index in (0, 1)]
        return all(self.start(i) >= least and done[i] and int(done[i][-1]) >= self.start(i) + 2 for i in (0, 1))


def wait(condition: Callable[[], bool], what: str, seconds: float = 300) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"waited {seconds} s: {what}"
        time.sleep(0.1)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(tmp_path)
    try:
        made.control("start")
        yield made
    finally:
        made.control("stop")


def test_runs_survive_a_requeue_and_the_loss_of_their_node(cluster: Cluster) -> None:
    with cluster.queue() as queue:
        wait(lambda: cluster.train(0), "both runs train")
        jobs = cluster.say("squeue", "--noheader", "--format=%i").split()
        assert len(jobs) == 2
        for job in jobs:  # as a preemption does: SIGTERM first
            cluster.say("scontrol", "requeue", job)
        wait(lambda: cluster.train(2), "both go on after the requeue")
        requeued = [cluster.start(0), cluster.start(1)]
        assert "taken over" not in cluster.log(0) + cluster.log(1)  # they ended in order
        cluster.control("fail")
        wait(lambda: "down" in cluster.say("sinfo", "--noheader", "--format=%T"), "SLURM sees that its node is lost")
        cluster.control("restore")
        assert queue.wait(timeout=600) == 0, (cluster.folder / "queue.log").read_text()
    for index, config in enumerate(cluster.configs):
        result = load_run(cluster.root / "store" / config.run_id)
        assert result.info["status"] == "finished" and result.info["threads"] == 1
        assert {path.name for path in result.path.iterdir()} == {"run.json", *COMPARED}
        assert 2 <= requeued[index] <= cluster.start(index) < EPOCHS
        assert cluster.log(index).count("taken over from process") == 1  # the lock of the lost node
    slurm = "".join(path.read_text() for path in (cluster.root / "build/slurm").glob("*.log"))
    assert slurm.count("is saved, and the same command goes on from there") == 2
    config = cluster.configs[0]
    command = [sys.executable, *run_command(config).split()[1:], "--store", "whole", "--data-root", "data/synthetic"]
    alone = cluster.environment | {"OMP_NUM_THREADS": "1"}
    subprocess.run(command, cwd=cluster.root, env=alone, check=True, capture_output=True, timeout=600)
    assert_same_bits(*(cluster.root / store / config.run_id for store in ("store", "whole")))


def test_a_queue_that_is_interrupted_cancels_its_jobs_and_they_save(cluster: Cluster) -> None:
    with cluster.queue() as queue:
        wait(lambda: cluster.train(0), "both runs train")
        queue.send_signal(signal.SIGINT)
        assert queue.wait(timeout=120) != 0
    wait(lambda: not cluster.say("squeue", "--noheader").strip(), "SLURM has ended the jobs")
    for config in cluster.configs:
        folder = cluster.root / "store" / config.run_id
        assert {path.name for path in folder.iterdir()} == {"checkpoint.pt"}
        saved = torch.load(folder / "checkpoint.pt", weights_only=True)
        assert 2 <= saved["trainer"]["epochs_done"] < EPOCHS
