"""What the runs of a profile and the reference files say, as one JSON-ready summary: the only thing the report reads.

Runs come from the groups of :mod:`ssn_core.study.results`. Which runs those are, the profile says: a folder in the
store that it does not name is never read.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pandas as pd

from ssn_core.bench import counters
from ssn_core.bench import measure as bench
from ssn_core.bench import show as efficiency
from ssn_core.data.brightness import TELLING
from ssn_core.errors import InputError
from ssn_core.runs.config import RunConfig
from ssn_core.runs.presets import preset
from ssn_core.runs.profiles import (
    NotRun,
    Profile,
    load_profile,
    matched_control,
    project_root,
    run_command,
)
from ssn_core.runs.result import TOP, RunResult, find_run
from ssn_core.study.reference import NEAR_ONE, log_statistics, reference
from ssn_core.study.results import Group, Outcome, finished, groups
from ssn_core.study.run_values import run_values
from ssn_core.study.trend import RISE

_COST = ("epochs", "batch_size", "adaptor_lr", "head_lr")
_SEEDS = 3  # what the ledger asks for where seeds differ
_DATA = ("experiment", "backbone", "dataset", "category", "beta", "masks")
#: the synthetic classes that stand where the report speaks of the course's
STAND_INS = {"bottle": "ring", "carpet": "weave", "screw": "thread", "ksdd1": "plates"}


def summarise(root: Path, name: str = "cpu") -> dict[str, Any]:
    """Runs, groups, reference figures, speed measurements, drawn figures and the commands of what is not run.

    ``root`` is the checkout: stores, ``data/reference`` and figures lie below it. ``name`` is the profile whose runs
    the report is about; "cpu" gives way to "full" wherever that has runs of the same experiment and data. Raises
    :class:`InputError` for a reference file that is missing, and for a run folder that is broken or of another format.
    """
    profile = load_profile(name)
    if not profile.synthetic and name != "cpu":
        raise InputError(f"profile {name!r} has no report of its own: python -m report shows its runs beside cpu's")
    outcomes = _outcomes(root, profile)
    found = groups(outcomes)
    runs = [_run(run) for group in found for run in group.runs]
    runs.sort(key=lambda run: run["run_id"])
    seconds = _newest_commit(root, {run["revision"] for run in runs})
    measured, derived = _bench(root, name)
    speed = reference("supersimplenet_published_speed", root).agg(["mean", "min", "max"])
    return {
        "synthetic": STAND_INS if profile.synthetic else None,
        "timestamp": seconds or 0,
        "date": datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%d") if seconds else None,
        "changed": _changed([run.config for run in finished(outcomes)]),
        "fingerprint": hashlib.sha256(json.dumps(runs, sort_keys=True).encode()).hexdigest()[:12],
        "runs": runs,
        "groups": [_group(group) for group in found if group.runs],
        "commands": [_command(profile, outcome) for outcome in outcomes],
        "planned": {c.category: [c.epochs, c.batch_size] for c in _models(load_profile("cpu"))},
        "course": _records(reference("course_report_tables", root)),
        "log": _records(log_statistics(root)),
        "published": _records(reference("supersimplenet_published", root)),
        "speed": _records(speed.rename_axis("statistic").reset_index()),
        "counters": _counters(root),
        "rules": {"near_one": NEAR_ONE, "rise": RISE, "top": TOP, "telling": TELLING},
        "bench": measured,
        "derived": derived,
        "figures": _figures(root, profile),
    }


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    return json.loads(table.to_json(orient="records"))


def _below(root: Path, folder: Path) -> Path:
    """A folder of a profile, in the checkout that is summarised."""
    return root / folder.relative_to(project_root())


def wanted_runs(profile: Profile) -> list[RunConfig]:
    """The runs that the report is about: on real data three seeds of each that the profile names, and of every other
    experiment of the full protocol at scenario A's cost."""
    configs = profile.known()
    if profile.synthetic:
        return configs
    full = load_profile("full")
    models = {config.category: config for config in _models(profile)}
    for config in (c for name in full.experiments if name not in profile.experiments for c in full.configs(name)):
        if (model := models.get(config.category)) is not None:
            cost = {name: getattr(model, name) for name in (*_COST, "eval_every")}
            configs.append(config.replace(**cost))
    first = dict.fromkeys(config for config in configs if config.seed == 0)
    return [config.replace(seed=seed) for config in first for seed in range(_SEEDS)]


def _models(profile: Profile) -> list[RunConfig]:
    """Scenario A's runs, whose cost is the model for what the profile does not name."""
    return [config for config in profile.configs("scenario_a") if not config.edge]


def _outcomes(root: Path, profile: Profile) -> list[Outcome]:
    """What there is of the wanted runs, or of better ones, and of the controls matched to them."""
    store = _below(root, profile.store)
    outcomes = [_find(config, store) for config in wanted_runs(profile)]
    if profile.name == "cpu":
        full = load_profile("full")
        better = [_find(config, _below(root, full.store)) for config in full.known()]
        taken = {_data(run.config) for run in finished(better)}
        reduced = [outcome for outcome in outcomes if _data(outcome.config) not in taken]
        outcomes = [*(outcome for outcome in better if _data(outcome.config) in taken), *reduced]
    return [*outcomes, *_controls(finished(outcomes), store)]


def _controls(runs: list[RunResult], store: Path) -> Iterator[Outcome]:
    main = preset("learned_noise_v2")
    for run in runs:
        learned = (run.config.experiment, run.config.beta) == (main.experiment, main.beta)
        if learned and (control := matched_control(run)) is not None:
            yield _find(control, store)


def _find(config: RunConfig, store: Path) -> Outcome:
    return find_run(config, store) or NotRun(config, "not made")


def _data(config: RunConfig) -> tuple[Any, ...]:
    return tuple(getattr(config, name) for name in _DATA)


def _changed(configs: list[RunConfig]) -> dict[str, list[Any]]:
    """Cost and step size of the runs where they are not the presets': field -> the values that occur."""
    found: dict[str, set[Any]] = {}
    for config in configs:
        wanted = preset(config.experiment)
        for name in _COST:
            if getattr(config, name) != getattr(wanted, name):
                found.setdefault(name, set()).add(getattr(config, name))
    return {name: sorted(values) for name, values in found.items()}


def _run(result: RunResult) -> dict[str, Any]:
    info, config = result.info, result.config
    told = {name: info[name] for name in ("status", "steps", "epochs_done", "device", "versions", "data")}
    named = {"run_id": config.run_id, "seconds": info["wall_seconds"], "revision": info["git_revision"]}
    return config.as_dict() | told | named | {"values": run_values(result)}


def _group(group: Group) -> dict[str, Any]:
    """What the report says of a group; synthetic classes under the names of those that they stand for."""
    fields, runs = group.config.as_dict() | group.key, group.runs
    noise = {run.config.noise_std for run in runs}
    return {
        **{name: value for name, value in fields.items() if name not in ("seed", "eval_every")},
        **_stands_for(group.config),
        "edge": group.config.edge,
        "noise_std": noise.pop() if len(noise) == 1 else None,  # each control has its own
        "seeds": [run.config.seed for run in runs],
        "n": len(runs),
        "steps": min(run.info["steps"] for run in runs),
        "device": ", ".join(sorted({run.info["device"] for run in runs})),
        "values": group.values,
    }


def _stands_for(config: RunConfig) -> dict[str, str]:
    if config.dataset != "synthetic":
        return {"dataset": config.dataset, "category": config.category}
    [category] = [real for real, drawn in STAND_INS.items() if drawn == config.category] or [config.category]
    return {"dataset": category if category.startswith("ksdd") else "mvtec", "category": category}


def _command(profile: Profile, outcome: Outcome) -> dict[str, Any]:
    """Of a run that the report is about: whether it is there, and the command that makes it."""
    config = outcome.config
    fields = {name: getattr(config, name) for name in (*_DATA, "seed", "edge")} | _stands_for(config)
    command = "make report" if profile.synthetic else run_command(config)
    return fields | {"there": isinstance(outcome, RunResult), "command": command}


def _bench(root: Path, name: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Speed measurements of the best profile that has them, and what they imply for other devices; none where nothing
    was measured."""
    names = ("full", "cpu") if name == "cpu" else (name,)
    paths = [_below(root, load_profile(n).figures) / bench.FILE for n in names]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        return [], []
    table = bench.read(path)
    table["device"] = table["device"].str.partition(":")[0]  # its kind
    return _records(table), _records(efficiency.derived(table))


def _counters(root: Path) -> list[dict[str, Any]]:
    """Operations of one network by two counters; none where they were not measured."""
    path = root / "data" / "results" / counters.FILE
    return _records(pd.read_csv(path)) if path.is_file() else []


def _figures(root: Path, profile: Profile) -> dict[str, dict[str, str]]:
    """Drawn figures, of real and of synthetic data: file name -> path from the root, for Typst, which cannot look.
    Beside real data stand the synthetic pictures that are kept in git for it."""
    found: dict[str, dict[str, str]] = {"real": {}, "demo": {}}
    real = [("real", _below(root, load_profile(name).figures)) for name in ("cpu", "full")]
    kept = [*real, ("demo", root / "figures" / "synthetic")]
    for kind, folder in [("demo", _below(root, profile.figures))] if profile.synthetic else kept:
        files = sorted(folder.glob("*.*"))
        found[kind] |= {p.name: f"/{p.relative_to(root).as_posix()}" for p in files if p.stat().st_size}
    return found


def _newest_commit(root: Path, revisions: set[str | None]) -> int | None:
    """Time of the newest revision that made a run, in seconds; None without git or its history."""
    names = sorted(r.removesuffix("-dirty") for r in revisions if r)
    command = ["git", "log", "--no-walk", "-1", "--format=%ct", "--ignore-missing", *names]  # the newest comes first
    try:
        answer = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=10).stdout
    except (OSError, subprocess.SubprocessError):  # no git
        return None
    return int(answer) if names and answer else None
