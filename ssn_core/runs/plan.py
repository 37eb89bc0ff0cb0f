"""The runs of a profile as a queue works through them: all that its notebooks show, less what cannot be run here."""

from __future__ import annotations

import os
import shlex
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

from ssn_core.errors import InputError
from ssn_core.runs.config import RunConfig
from ssn_core.runs.guard import interrupted_by
from ssn_core.runs.presets import preset
from ssn_core.runs.profiles import (
    NotRun,
    Profile,
    load_profile,
    matched_control,
    project_root,
    run_command,
)
from ssn_core.runs.result import Log, find_run, load_run


@dataclass
class Plan:
    """``runs``: by run id, in the profile's order; a control joins them once its learned run is finished."""

    profile: Profile
    runs: dict[str, RunConfig]
    left_out: list[NotRun]

    @classmethod
    def of(cls, name: str) -> Plan:
        """The plan of ``profiles/<name>.yaml`` on this machine."""
        profile = load_profile(name)
        reasons = {c: None if profile.synthetic else profile.unavailable(c) for c in profile.known()}
        left_out = [NotRun(config, reason) for config, reason in reasons.items() if reason is not None]
        return cls(profile, {c.run_id: c for c, reason in reasons.items() if reason is None}, left_out)

    @property
    def remarks(self) -> list[str]:
        """One line for each reason to leave runs out."""
        reasons: dict[str, list[str]] = {}
        for run in self.left_out:
            reasons.setdefault(run.reason, []).append(run.config.experiment)
        return [
            f"profile {self.profile.name}: {len(names)} run(s) left out ({', '.join(dict.fromkeys(names))}): {reason}"
            for reason, names in reasons.items()
        ]

    @property
    def controlled(self) -> list[str]:
        """The runs after which a control with fixed noise of the same loudness runs (notebook 03)."""
        main = preset("learned_noise_v2")
        return [k for k, c in self.runs.items() if c.experiment == main.experiment and c.beta == main.beta]

    def add_control(self, learned: str) -> str | None:
        """The run id of a finished learned run's control; None where it diverged before there was any noise."""
        if (control := matched_control(load_run(self.profile.store / learned))) is None:
            return None
        self.runs[control.run_id] = control
        return control.run_id

    def target(self, run_id: str) -> str:
        """The file that marks a run as finished, seen from the checkout."""
        return _from_checkout(self.profile.store / run_id / "run.json")

    def command(self, run_id: str) -> str:
        """The shell command that makes a run as the profile does, by this interpreter."""
        config = self._config(run_id)
        words = [sys.executable, *shlex.split(run_command(config, _from_checkout(self.profile.store)))[1:]]
        if (root := self.profile.data_root(config)) is not None:
            words += ["--data-root", _from_checkout(root)]
        return shlex.join(words)

    def work(self, minutes: float, log: Log = print) -> bool:
        """Make what is missing, in order, for so many minutes; False when they were over first. Then the run under
        way is saved as of its last whole epoch, and the next call resumes it. Main thread of a Unix process only."""
        with interrupted_by(signal.SIGALRM):
            try:
                signal.setitimer(signal.ITIMER_REAL, max(60 * minutes, 1e-3))  # zero would switch it off
                self.profile.run(list(self.runs.values()), log=log)
                self.profile.run([self.runs[name] for name in map(self.add_control, self.controlled) if name], log=log)
                return True
            except KeyboardInterrupt as stopped:
                log(str(stopped) or "stopped between two runs")  # an alarm inside a run carries its line
                return False
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)

    def priority(self, run_id: str) -> int:
        """What stands earlier in the profile comes first."""
        self._config(run_id)
        return len(self.runs) - list(self.runs).index(run_id)

    def _config(self, run_id: str) -> RunConfig:
        if run_id not in self.runs:  # a control, in the process of its own job
            for learned in self.controlled:
                if find_run(self.runs[learned], self.profile.store) is not None:
                    self.add_control(learned)
        if run_id not in self.runs:
            raise InputError(f"profile {self.profile.name!r} has no run {run_id!r} that this machine can make")
        return self.runs[run_id]


def _from_checkout(path: Path) -> str:
    return os.path.relpath(path, project_root())
