"""Tables of measured runs beside published and course-report figures; every number is read from a file.

All cells are text, so that a notebook shows what the CSV holds. Rates are fractions with four decimals. An empty cell:
the source has no such value. "n/a": the metric is not defined there. "not run": no run, and ``command`` makes one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ssn_core.files import write_atomic
from ssn_core.metrics import METRICS, NOT_AVAILABLE
from ssn_core.runs.config import RunConfig
from ssn_core.runs.profiles import NotRun, run_command
from ssn_core.runs.result import RunResult
from ssn_core.study.labels import data_label, method_label
from ssn_core.study.reference import course_report, published, sweep_log

Outcome = RunResult | NotRun
NOT_RUN = "not run"
_NOT_RUN_CELLS = {"ours_mean": NOT_RUN, "ours_std": ""}
LAST = 10  # evaluations in the band that shows what one final value is worth
MAIN_BETA = 0.1  # the bound that the course report took from its sweep into its comparison

TABLE_METRICS: dict[str, Sequence[str]] = {
    "2": ("I-AUROC", "seg-I-AUROC", "AUPRO"),
    "4": ("I-AUROC", "AP-det", "P-AUROC", "AUPRO", "AP-loc"),
    "5": ("I-AUROC", "AP-det", "seg-I-AUROC", "P-AUROC", "AUPRO", "AP-loc"),
    "7": ("I-AUROC", "AP-det", "seg-I-AUROC", "P-AUROC", "AUPRO", "AP-loc"),
    "8": ("AP-det", "AP-loc"),
}


def write(frame: pd.DataFrame, folder: str | Path, name: str) -> pd.DataFrame:
    """Write ``<folder>/<name>.csv`` whole and return the frame, to be shown."""
    write_atomic(Path(folder) / f"{name}.csv", lambda part: frame.to_csv(part, index=False, lineterminator="\n"))
    return frame


def finished(outcomes: Iterable[Outcome]) -> list[RunResult]:
    """Those that were run."""
    return [outcome for outcome in outcomes if isinstance(outcome, RunResult)]


def select(outcomes: Iterable[Outcome], **fields: Any) -> list[Outcome]:
    """Those whose configuration has the given fields, e.g. ``category="screw"``."""
    return [o for o in outcomes if all(getattr(o.config, name) == value for name, value in fields.items())]


def family(config: RunConfig) -> RunConfig:
    """What the seeds of one method share. Each control has the noise of its own seed's learned run, so that varies."""
    level = 1.0 if config.experiment == "noise_control" else config.noise_std
    return config.replace(seed=0, noise_std=level)


def comparison(outcomes: Sequence[Outcome], metrics: Sequence[str] = METRICS, references: bool = True) -> pd.DataFrame:
    """One row per method, data set and metric: published, course report, ours over the seeds, and the conditions.

    ``references=False`` leaves the published and course-report columns out: synthetic data have nothing to compare.
    """
    rows = []
    for group in _groups(outcomes):
        config = group[0].config
        for metric in metrics:
            row = {"method": method_label(config), "data": data_label(config), "metric": metric}
            if references:
                row |= _reference_cells(config, metric)
            rows.append(row | _ours(group, metric) | conditions(group))
    return pd.DataFrame(rows).fillna("")


def table2_scenarios(outcomes: Sequence[Outcome], references: bool = True) -> pd.DataFrame:
    """Baseline, scenario A and scenario B per category (the course report's Table 2, with the map's own score)."""
    order = {c: i for i, c in enumerate(dict.fromkeys(o.config.category for o in outcomes))}
    by_category = sorted(outcomes, key=lambda o: order[o.config.category])
    return comparison(by_category, TABLE_METRICS["2"], references)


def table4_learned_v1(outcomes: Sequence[Outcome], references: bool = True) -> pd.DataFrame:
    """Learned noise v1 by both rules (Table 4); the course report trained it by the published one."""
    return comparison(outcomes, TABLE_METRICS["4"], references)


def table7_weak(outcomes: Sequence[Outcome], references: bool = True) -> pd.DataFrame:
    """Detection and localisation of the weakly supervised variant (Table 7), and Youden's point of both its scores."""
    frame = comparison(outcomes, TABLE_METRICS["7"], references)
    points = [_youden_rows(group, references) for group in _groups(outcomes)]
    logits = [_logit_row(group) for group in _groups(outcomes) if group[0].config.pixel_values != "logits"]
    return pd.concat([frame, *logits, *points], ignore_index=True).fillna("")


def _logit_row(group: Sequence[Outcome]) -> pd.DataFrame:
    """AP-loc of the same maps by their logits, for runs that ranked the pixels by the sigmoid (erratum 12)."""
    config = group[0].config
    values = [run.metrics["on_logits"]["AP-loc"] for run in finished(group)]
    row = {"method": method_label(config), "data": data_label(config), "metric": "AP-loc, by the logits"}
    return pd.DataFrame([row | (mean_and_std(values) if values else _NOT_RUN_CELLS) | conditions(group)])


def _youden_rows(group: Sequence[Outcome], references: bool) -> pd.DataFrame:
    """Threshold (logit), TPR and FPR at Youden's point, mean over the seeds."""
    config, rows = group[0].config, []
    for score, name in (("score", "image score"), ("map_score", "map score")):
        for key, label in (("threshold", "threshold (logit)"), ("tpr", "TPR"), ("fpr", "FPR")):
            points = [run.metrics["youden"][score] for run in finished(group)]
            values = [NOT_AVAILABLE if point == NOT_AVAILABLE else point[key] for point in points]
            row = {"method": method_label(config), "data": data_label(config), "metric": f"Youden {label}, {name}"}
            if references and score == "score" and key != "threshold":  # theirs is a normalised score
                row |= _reference_cells(config, f"Youden {key.upper()}")
            rows.append(row | (mean_and_std(values) if values else _NOT_RUN_CELLS) | conditions(group))
    return pd.DataFrame(rows)


def runs(outcomes: Sequence[Outcome]) -> pd.DataFrame:
    """What was run and what was not: one row per configuration, with steps, wall time and the command."""
    rows = []
    for outcome in outcomes:
        config = outcome.config
        row = {"method": method_label(config), "data": data_label(config), "seed": str(config.seed)}
        row |= {"backbone": config.backbone, "epochs": str(config.epochs), "batch_size": str(config.batch_size)}
        if isinstance(outcome, RunResult):
            info = outcome.info
            row |= {"status": info["status"], "steps": str(info["steps"]), "seconds": f"{info['wall_seconds']:.0f}"}
            row |= {"device": info["device"], "train": str(info["data"]["train_used"])}
            row |= {"test": str(info["data"]["test"]), "note": info["note"]}
        else:
            row |= {"status": NOT_RUN, "note": _why(outcome)}
        rows.append(row | {"command": run_command(config)})
    return pd.DataFrame(rows).fillna("")


def _why(outcome: NotRun) -> str:
    """The reason without this machine's folders, which mean nothing in a table."""
    kind = outcome.reason.partition(":")[0]
    return f"no {kind} on this machine" if kind in ("data", "weights") else outcome.reason


def conditions(group: Sequence[Outcome]) -> dict[str, str]:
    """What a measured number depends on, for the runs of one method that differ in their seed only."""
    config, done = group[0].config, finished(group)
    cells = {
        "n": str(len(done)),
        "status": _status(group),
        "backbone": config.backbone,
        "image_size": "x".join(map(str, config.image_size)),
        "epochs": str(config.epochs),
        "batch_size": str(config.batch_size),
        "steps": " / ".join(sorted({str(r.info["steps"]) for r in done})),
        "seeds": " ".join(str(r.config.seed) for r in done),
        "device": " / ".join(sorted({r.info["device"] for r in done})),
    }
    return cells | {"command": "; ".join(o.command for o in group if isinstance(o, NotRun))}


def _status(group: Sequence[Outcome]) -> str:
    done = finished(group)
    if not done:
        return NOT_RUN
    diverged = sum(result.info["status"] == "diverged" for result in done)
    parts = [f"{diverged} of {len(done)} diverged" if diverged and len(done) > 1 else "diverged"] if diverged else []
    if len(done) < len(group):
        parts.append(f"{len(group) - len(done)} of {len(group)} {NOT_RUN}")
    return ", ".join(parts) or "finished"


def _groups(outcomes: Sequence[Outcome]) -> list[list[Outcome]]:
    """Outcomes that differ in nothing but the seed, in order of appearance."""
    groups: dict[RunConfig, list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault(family(outcome.config), []).append(outcome)
    return list(groups.values())


def _reference_cells(config: RunConfig, metric: str) -> dict[str, str]:
    cells = dict.fromkeys(("published_mean", "published_std", "source", "course_report", "course_source"), "")
    if (theirs := published(config, metric)) is not None:
        cells |= {"published_mean": f"{theirs[0]:.4f}", "published_std": f"{theirs[1]:.4f}", "source": theirs[2]}
    if (course := course_report(config, metric)) is not None:
        cells |= {"course_report": f"{course[0]:.4f}", "course_source": course[1]}
    return cells


def _ours(group: Sequence[Outcome], metric: str) -> dict[str, str]:
    done = finished(group)
    if not done:
        return _NOT_RUN_CELLS
    return mean_and_std([result.metrics[metric] for result in done])


def mean_and_std(values: Sequence[float | str]) -> dict[str, str]:
    """Cells ``ours_mean`` and ``ours_std`` (of a sample; empty for one value); "n/a" stays "n/a"."""
    if any(value == NOT_AVAILABLE for value in values):
        return {"ours_mean": NOT_AVAILABLE, "ours_std": ""}
    spread = f"{np.std(values, ddof=1):.4f}" if len(values) > 1 else ""
    return {"ours_mean": f"{np.mean(values):.4f}", "ours_std": spread}


def table5_beta(
    outcomes: Sequence[Outcome], metrics: Sequence[str] = TABLE_METRICS["5"], references: bool = True
) -> pd.DataFrame:
    """The sweep of the bound: final value over the seeds, range of the last ten evaluations of all seeds, and the same
    of the course report's log (its Table 5 is one seed's final value, trained by the published rule)."""
    frame = comparison(outcomes, metrics, references=False)
    extra = []
    for group in _groups(outcomes):
        log = sweep_log(group[0].config.beta)
        for metric in metrics:
            last = [run.history[metric].dropna().tail(LAST) for run in finished(group)]
            cells = {"beta": f"{group[0].config.beta:g}"}
            cells |= _range("ours", pd.concat(last) if last else pd.Series(dtype=float))
            if references:
                final = log[log["evaluation"] == "final"][metric]
                cells |= {"course_report": f"{final.iloc[0]:.4f}" if len(final) else ""}
                cells |= _range("course", log[log["evaluation"] == "periodic"][metric].tail(LAST))
            extra.append(cells)
    front = ["method", "data", "metric", "ours_mean", "ours_std"]
    return pd.concat([frame[front], pd.DataFrame(extra), frame.drop(columns=front)], axis=1)


def _range(name: str, values: pd.Series) -> dict[str, str]:
    columns = [f"{name}_last_{part}" for part in ("count", "min", "mean", "max")]
    if values.empty:
        return dict.fromkeys(columns, "")
    numbers = (f"{v:.4f}" for v in (values.min(), values.mean(), values.max()))
    return dict(zip(columns, (str(len(values)), *numbers), strict=True))


def beta_means(runs: Sequence[RunResult], metric: str) -> pd.DataFrame:
    """Mean over the seeds of the validation and the test metric, by bound (index, descending)."""
    rows = [(r.config.beta, r.metrics[f"validation {metric}"], r.metrics[metric]) for r in runs]
    frame = pd.DataFrame(rows, columns=["beta", "validation", "test"]).astype(float)
    return frame.groupby("beta").mean().sort_index(ascending=False)


def beta_selection(runs: Sequence[RunResult], metrics: Sequence[str] = ("I-AUROC", "AUPRO")) -> pd.DataFrame:
    """Which bound a held-out part of the training data chooses, which one the test set would have chosen, and what the
    difference costs on the test set; for the mean over the seeds and for every seed alone."""
    columns = ["metric", "seed", "chosen_beta", "test_of_chosen", "oracle_beta", "test_of_oracle", "lost", "bounds"]
    rows = []
    seeds = sorted({run.config.seed for run in runs})
    for metric in metrics if runs else ():
        for name, part in [("mean", runs), *((str(s), select(runs, seed=s)) for s in seeds)]:
            means = beta_means(part, metric)
            chosen, oracle = means["validation"].idxmax(), means["test"].idxmax()
            best = [f"{means.loc[beta, 'test']:.4f}" for beta in (chosen, oracle)]
            lost = f"{means.loc[oracle, 'test'] - means.loc[chosen, 'test']:.4f}"
            bounds = " ".join(f"{beta:g}" for beta in means.index)
            rows.append((metric, name, f"{chosen:g}", best[0], f"{oracle:g}", best[1], lost, bounds))
    return pd.DataFrame(rows, columns=columns)
