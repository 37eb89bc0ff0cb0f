"""What the run folders and the reference files say, as one JSON-ready summary: the only thing the report reads.

Runs of one configuration that differ in the seed alone form a group; every value of a group is a mean over its seeds
with the sample's standard deviation, and says how many seeds there are.
"""

from __future__ import annotations

import hashlib
import json
import math
import subprocess
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pandas as pd

from ssn_core.bench import counters
from ssn_core.bench import measure as bench
from ssn_core.bench import show as efficiency
from ssn_core.bench.forms import inference_dtype
from ssn_core.errors import InputError
from ssn_core.metrics import METRICS
from ssn_core.runs.config import RunConfig, preset
from ssn_core.runs.profiles import load_profile, run_command
from ssn_core.runs.result import RunResult, load_run
from ssn_core.study.run_values import LAST_EVALUATIONS, aggregate, run_values
from ssn_core.study.tables import family
from ssn_core.study.trend import RISE, rise

REFERENCE = {
    "course": "course_report_tables.csv",
    "log": "course_report_training_log.csv",
    "published": "supersimplenet_published.csv",
    "speed": "supersimplenet_published_speed.csv",
}
_NOT_OF_A_GROUP = ("seed", "eval_every")  # how often a run is looked at does not change it
_COST = ("epochs", "batch_size", "adaptor_lr", "head_lr")
_SEEDS = 3  # what the ledger asks for where seeds differ
NEAR_ONE = 0.05  # a loss at most so far from one counts as near one
_REAL = ("cpu", "full")  # profiles on real data, the better one last


def summarise(root: Path) -> dict[str, Any]:
    """Runs, groups, reference figures, speed measurements, drawn figures and the commands of what is not run.

    ``root`` is the checkout: ``data/results``, ``data/reference`` and ``figures`` lie below it. Raises
    :class:`InputError` for a reference file that is missing and a run folder of another format.
    """
    results = [load_run(path.parent) for path in sorted((root / "data" / "results").glob("*/run.json"))]
    runs = [_run(result) for result in results]
    seconds = _newest_commit(root, {run["revision"] for run in runs})
    groups = _groups(results, runs)
    measured, derived = _bench(root)
    return {
        "timestamp": seconds or 0,
        "date": datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%d") if seconds else None,
        "changed": _changed(results),
        "fingerprint": hashlib.sha256(json.dumps(runs, sort_keys=True).encode()).hexdigest()[:12],
        "runs": runs,
        "groups": groups,
        "commands": _commands(results),
        **{name: _reference(root, name) for name in REFERENCE},
        "counters": _counters(root),
        "rules": {"near_one": NEAR_ONE, "rise": RISE},
        "bench": measured,
        "derived": derived,
        "figures": _figures(root),
    }


def _changed(results: list[RunResult]) -> dict[str, list[Any]]:
    """Cost and step size of the runs where they are not the presets': field -> the values that occur."""
    found: dict[str, set[Any]] = {}
    for config in (result.config for result in results):
        wanted = preset(config.experiment)
        for name in _COST:
            if getattr(config, name) != getattr(wanted, name):
                found.setdefault(name, set()).add(getattr(config, name))
    return {name: sorted(values) for name, values in found.items()}


def _run(result: RunResult) -> dict[str, Any]:
    info, config = result.info, result.config
    return {
        "run_id": config.run_id,
        **config.as_dict(),
        "status": info["status"],
        "note": info["note"],
        "steps": info["steps"],
        "epochs_done": info["epochs_done"],
        "seconds": info["wall_seconds"],
        "device": info["device"],
        "threads": info["threads"],
        "versions": info["versions"],
        "revision": info["git_revision"],
        "data": info["data"],
        "sigma": info["noise"]["std"],
        "feature_std": info["noise"]["feature_std"],
        "values": run_values(result),
    }


def _groups(results: list[RunResult], runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Runs of one method (:func:`ssn_core.study.tables.family`) that differ in the seed alone; the longest training and
    then the most seeds come first."""
    members: dict[RunConfig, list[int]] = {}
    for i, result in enumerate(results):
        members.setdefault(family(result.config).replace(eval_every=0), []).append(i)
    groups = [_group(config, [runs[i] for i in indices]) for config, indices in members.items()]
    return sorted(groups, key=lambda g: (-g["epochs"], -g["n"], g["experiment"], g["category"], g["beta"] or 0))


def _group(config: RunConfig, runs: list[dict[str, Any]]) -> dict[str, Any]:
    fields = {name: value for name, value in config.as_dict().items() if name not in _NOT_OF_A_GROUP}
    seeds = _by_seed(runs)
    own = {name: {run[name] for run in seeds.values()} for name in ("noise_std", "steps", "device")}
    return {
        **fields,
        "noise_std": own["noise_std"].pop() if len(own["noise_std"]) == 1 else None,  # each control has its own
        "seeds": list(seeds),
        "n": len(seeds),
        "steps": max(own["steps"]),
        "device": ", ".join(sorted(own["device"])),
        "values": aggregate({seed: run["values"] for seed, run in seeds.items()}),
    }


def _by_seed(runs: list[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """One run per seed, in order: of two that differ in how often they were evaluated the one evaluated oftener."""
    seeds: dict[int, dict[str, Any]] = {}
    for run in sorted(runs, key=lambda run: (run["seed"], -(run["eval_every"] or math.inf))):
        other = seeds.setdefault(run["seed"], run)
        if other["noise_std"] != run["noise_std"]:
            raise InputError(
                f"{other['run_id']} and {run['run_id']} are controls of one seed with different noise; delete the one "
                "that was made for a learned run that is gone"
            )
        seeds[run["seed"]] = run
    return seeds


def _commands(results: list[RunResult]) -> list[dict[str, Any]]:
    """Three seeds of every run that the cpu profile names and of every other experiment at scenario A's cost there:
    whether it is there, and the command that makes it."""
    there = {result.config.run_id for result in results}
    cpu, full = load_profile("cpu"), load_profile("full")
    configs = [config for name in cpu.experiments for config in cpu.configs(name) if config.seed == 0]
    models = {config.category: config for config in cpu.configs("scenario_a")}
    for config in (c for n in full.experiments if n not in cpu.experiments for c in full.configs(n) if c.seed == 0):
        if (model := models.get(config.category)) is not None:
            cost = {name: getattr(model, name) for name in (*_COST, "eval_every")}
            configs.append(config.replace(**cost))
    seeds = [config.replace(seed=seed) for config in configs for seed in range(_SEEDS)]
    return [_command(config, config.run_id in there) for config in seeds]


def _command(config: RunConfig, there: bool) -> dict[str, Any]:
    fields = ("experiment", "dataset", "category", "beta", "seed")
    return {**{name: getattr(config, name) for name in fields}, "there": there, "command": run_command(config)}


def _reference(root: Path, name: str) -> list[dict[str, Any]]:
    """Rows of one reference file; percentages become shares, and a training log one row per training."""
    path = root / "data" / "reference" / REFERENCE[name]
    if not path.is_file():
        raise InputError(f"{path} is missing: the report compares with it; restore it from the repository")
    table = pd.read_csv(path, dtype={"table": str, "category": str}, keep_default_na=False, na_values=[""])
    if name == "course":
        table["value"] = table["value"].where(table["unit"] != "%", table["value"] / 100)
    if name == "log":
        table = _log_statistics(table)
    if name == "speed":
        table = table.agg(["mean", "min", "max"]).rename_axis("statistic").reset_index()
    return json.loads(table.to_json(orient="records"))


def _log_statistics(log: pd.DataFrame) -> pd.DataFrame:
    """Per training and metric: the final test; mean, least and greatest of the last ten periodic evaluations; what it
    gained over the last third of them; and the best one made while the loss lay near one."""
    rows = []
    for (experiment, category), part in log.groupby(["experiment", "category"], sort=False):
        periodic, final = part[part["evaluation"] == "periodic"], part[part["evaluation"] == "final"].iloc[0]
        late = periodic.tail(LAST_EVALUATIONS)
        near_one = periodic[(periodic["last_shown_avg_loss"] - 1).abs() <= NEAR_ONE]
        for metric in METRICS:
            row = {"experiment": experiment, "category": category, "metric": metric, "final": final[metric]}
            row |= {"late_mean": late[metric].mean(), "late_min": late[metric].min(), "late_max": late[metric].max()}
            row |= {"rise": rise(periodic.set_index("epoch")[metric]), "near_one": near_one[metric].max()}
            rows.append(row | {"best": part[metric].max(), "loss": final["last_shown_avg_loss"]})
    return pd.DataFrame(rows)


def _bench(root: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Speed measurements of the best profile that has them, and what they imply for other devices; none where nothing
    was measured."""
    paths = [path for profile in _REAL if (path := root / "figures" / profile / bench.FILE).is_file()]
    if not paths:
        return [], []
    table = bench.read(paths[-1])
    table["device"] = table["device"].str.partition(":")[0]  # its kind
    forms = zip(table["group"], table["variant"], table["device"], strict=True)
    dtypes = [inference_dtype(variant, device) if g.startswith("inference") else None for g, variant, device in forms]
    table["precision"] = [None if dtype is None else str(dtype).removeprefix("torch.") for dtype in dtypes]
    measured, derived = (json.loads(t.to_json(orient="records")) for t in (table, efficiency.derived(table)))
    return measured, derived


def _counters(root: Path) -> list[dict[str, Any]]:
    """Operations of one network by two counters; none where they were not measured."""
    path = root / "data" / "results" / counters.FILE
    return json.loads(pd.read_csv(path).to_json(orient="records")) if path.is_file() else []


def _figures(root: Path) -> dict[str, dict[str, str]]:
    """Drawn figures, of real and of synthetic data: file name -> path from the root, for Typst, which cannot look."""
    found: dict[str, dict[str, str]] = {"real": {}, "demo": {}}
    for folder in (*_REAL, "synthetic"):
        files = sorted((root / "figures" / folder).glob("*.*"))
        drawn = {p.name: f"/{p.relative_to(root).as_posix()}" for p in files if p.stat().st_size}
        found["demo" if folder == "synthetic" else "real"] |= drawn
    return found


def _newest_commit(root: Path, revisions: set[str | None]) -> int | None:
    """Time of the newest revision that made a run, in seconds; None outside a checkout with its history."""
    times = []
    for revision in sorted(r.removesuffix("-dirty") for r in revisions if r):
        command = ["git", "show", "--no-patch", "--format=%ct", f"{revision}^{{commit}}"]
        answer = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=10)
        if answer.returncode == 0:
            times.append(int(answer.stdout))
    return max(times, default=None)
