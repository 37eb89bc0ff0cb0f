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

import numpy as np
import pandas as pd

from . import bench, efficiency
from .config import RunConfig, preset
from .errors import InputError
from .metrics import METRICS
from .profiles import load_profile, run_command
from .store import RunResult, load_run

LAST_EVALUATIONS = 10
REFERENCE = {
    "course": "course_report_tables.csv",
    "log": "course_report_training_log.csv",
    "published": "supersimplenet_published.csv",
    "speed": "supersimplenet_published_speed.csv",
}
_NOT_OF_A_GROUP = ("seed", "eval_every")  # how often a run is looked at does not change it
_COST = ("epochs", "batch_size", "adaptor_lr", "head_lr")
_SEEDS = 3  # what the ledger asks for where seeds differ
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
        "values": _values(result),
    }


def _values(result: RunResult) -> dict[str, float]:
    """Every number of a run that a table, a sentence or a claim may want; what is not defined is left out."""
    metrics, history = result.metrics, result.history
    values: dict[str, Any] = {name: metrics[name] for name in METRICS}
    values |= {"parameters": metrics["parameters"], "diverged": float(result.info["status"] == "diverged")}
    values |= {"loss-first": history["loss"].iloc[0], "loss-last": history["loss"].iloc[-1]}
    values |= {"loss-least": history["loss"].min(), "loss-largest": history["loss"].max()}
    values |= {"noise-rms": history["noise_rms"].mean()}
    values |= {"noise-rms-first": history["noise_rms"].iloc[0], "noise-rms-last": history["noise_rms"].iloc[-1]}
    sigma, scale = result.info["noise"]["std"], result.info["noise"]["feature_std"]
    values["feature-std"] = scale
    values["noise-to-features"] = sigma / scale if sigma and scale else None
    values |= _late(history) | _operating_points(result)
    numbers = {name: float(v) for name, v in values.items() if isinstance(v, (int, float, np.number))}
    return {name: v for name, v in numbers.items() if math.isfinite(v)}


def _late(history: pd.DataFrame) -> dict[str, float]:
    """What the last evaluations of one training say of a single final value; validation metrics of the last one."""
    values: dict[str, float] = {}
    seen = history[list(METRICS)].apply(pd.to_numeric, errors="coerce").dropna(how="all").tail(LAST_EVALUATIONS)
    if len(seen) == LAST_EVALUATIONS:
        for name in METRICS:
            values |= {f"{name} late mean": seen[name].mean(), f"{name} late range": np.ptp(seen[name])}
    for name in (c for c in history.columns if c.startswith("validation ")):
        values[name] = pd.to_numeric(history[name], errors="coerce").iloc[-1]
    return values


def _operating_points(result: RunResult) -> dict[str, Any]:
    """TPR and FPR at Youden's threshold, chosen on the test set, and at the quantile of normal training images."""
    values: dict[str, Any] = {}
    normal = result.scores["label"] == 0
    youden, quantile = result.metrics["youden"], result.metrics["train_quantile"]
    if normal.all() or not normal.any() or "n/a" in youden.values():
        return values
    for name, column in (("", "score"), ("map ", "map_score")):
        values |= {f"{name}Youden TPR": youden[column]["tpr"], f"{name}Youden FPR": youden[column]["fpr"]}
        alarm = result.scores[column] > quantile[column]
        values |= {f"{name}quantile TPR": alarm[~normal].mean(), f"{name}quantile FPR": alarm[normal].mean()}
    for rule in ("Youden", "quantile"):
        values[f"{rule} J"] = values[f"{rule} TPR"] - values[f"{rule} FPR"]
    threshold = youden["score"]["threshold"]
    values["Youden probability"] = 1 / (1 + math.exp(-float(np.clip(threshold, -700, 700))))
    values["crossed FPR"] = (result.scores["map_score"][normal] >= threshold).mean()
    return values


def _groups(results: list[RunResult], runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Runs that differ in the seed alone; the longest training and then the most seeds come first."""
    members: dict[str, list[int]] = {}
    for i, result in enumerate(results):
        fields = {k: v for k, v in result.config.as_dict().items() if k not in _NOT_OF_A_GROUP}
        members.setdefault(json.dumps(fields, sort_keys=True), []).append(i)
    groups = []
    for key, indices in members.items():
        several = [runs[i] for i in indices]
        groups.append(
            {
                **json.loads(key),
                "seeds": sorted(run["seed"] for run in several),
                "n": len(several),
                "steps": max(run["steps"] for run in several),
                "device": ", ".join(sorted({run["device"] for run in several})),
                "values": aggregate([run["values"] for run in several]),
            }
        )
    return sorted(groups, key=lambda g: (-g["epochs"], -g["n"], g["experiment"], g["category"], g["beta"] or 0))


def aggregate(samples: list[dict[str, float]]) -> dict[str, dict[str, Any]]:
    """Mean, sample standard deviation (None for one), least, greatest and count of every value, over the samples that
    have it."""
    out = {}
    for name in sorted(set().union(*samples)):
        x = np.array([s[name] for s in samples if name in s])
        std = float(x.std(ddof=1)) if len(x) > 1 else None
        out[name] = {"mean": float(x.mean()), "std": std, "min": float(x.min()), "max": float(x.max()), "n": len(x)}
    return out


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
    """Per training and metric: the final test, and mean, least and greatest of the last ten periodic evaluations."""
    rows = []
    for (experiment, category), part in log.groupby(["experiment", "category"], sort=False):
        periodic, final = part[part["evaluation"] == "periodic"], part[part["evaluation"] == "final"].iloc[0]
        late = periodic.tail(LAST_EVALUATIONS)
        for metric in METRICS:
            row = {"experiment": experiment, "category": category, "metric": metric, "final": final[metric]}
            row |= {"late_mean": late[metric].mean(), "late_min": late[metric].min(), "late_max": late[metric].max()}
            rows.append(row | {"best": part[metric].max(), "loss": final["last_shown_avg_loss"]})
    return pd.DataFrame(rows)


def _bench(root: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Speed measurements of the best profile that has them, and what they imply for other devices; none where nothing
    was measured."""
    paths = [path for profile in _REAL if (path := root / "figures" / profile / bench.FILE).is_file()]
    if not paths:
        return [], []
    table = bench.read(paths[-1])
    measured, derived = (json.loads(t.to_json(orient="records")) for t in (table, efficiency.derived(table)))
    return measured, derived


def _figures(root: Path) -> dict[str, dict[str, str]]:
    """Drawn figures, of real data and of the demo: file name -> path from the root, for Typst, which cannot look."""
    found: dict[str, dict[str, str]] = {"real": {}, "demo": {}}
    for folder in (*_REAL, "demo"):
        files = sorted((root / "figures" / folder).glob("*.*"))
        drawn = {p.name: f"/{p.relative_to(root).as_posix()}" for p in files if p.stat().st_size}
        found["demo" if folder == "demo" else "real"] |= drawn
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
