"""The course report's tables in its own form, from the one table of results (:mod:`ssn_core.study.results`).

A row per method and source (``ours``, ``course``, ``published``), a column per metric, the count of runs once per row.
Cells are text, so that a notebook shows what the CSV holds: "0.613 ± 0.020" is a mean and the sample's standard
deviation over ``n`` runs, an empty cell a value that the source does not give, "n/a" one that is not defined, "not run"
a run that was not made; :func:`missing` names its command. ``references=False`` leaves the others' rows out.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ssn_core.files import write_atomic
from ssn_core.metrics import METRICS, NOT_AVAILABLE
from ssn_core.runs.result import RunResult
from ssn_core.study import reference, results
from ssn_core.study.differences import difference
from ssn_core.study.labels import BACKBONES, data_label, data_name, experiment_label, method_label, metric_label
from ssn_core.study.results import Outcome

finished = results.finished
NOT_RUN = "not run"
MAIN_BETA = 0.1  # the bound that the course report took from its sweep into its comparison
SELECTED_BY = ("I-AUROC", "AUPRO")  # what held-out images choose a bound by
_FRONT = ["data", "method", "backbone", "source", "setting", "n"]


def write(frame: pd.DataFrame, folder: str | Path, name: str) -> pd.DataFrame:
    """Write ``<folder>/<name>.csv`` whole and return the frame, to be shown."""
    write_atomic(Path(folder) / f"{name}.csv", lambda part: frame.to_csv(part, index=False, lineterminator="\n"))
    return frame


def select(outcomes: Iterable[Outcome], **fields: Any) -> list[Outcome]:
    """Those whose configuration has the given fields, e.g. ``category="screw"``."""
    return [o for o in outcomes if all(getattr(o.config, name) == value for name, value in fields.items())]


def comparison(outcomes: Iterable[Outcome], metrics: Sequence[str] = METRICS, references: bool = True) -> pd.DataFrame:
    """Any metrics of any methods: the form of all the tables below."""
    return pivot(results.table(outcomes, references), metrics)


#: Table 2: scenarios per category, with the map's own score, which the course report's table leaves out
table2 = functools.partial(comparison, metrics=("I-AUROC", "seg-I-AUROC", "AUPRO"))
#: Table 4: learned noise v1; the course report trained it by the published rule
table4 = functools.partial(comparison, metrics=("I-AUROC", "AP-det", "P-AUROC", "AUPRO", "AP-loc"))
#: Table 6: scenario A and the versions of learned noise by every metric
table6 = comparison
#: Table 7: weak supervision; AP-loc also by the logits where the sigmoid ranked the pixels (erratum 12), and Youden's
#: point of the image score, whose threshold is a logit here
_YOUDEN = ("Youden TPR", "Youden FPR", "Youden threshold (logit)")
table7 = functools.partial(comparison, metrics=(*METRICS, "AP-loc on logits", *_YOUDEN))


def table5(outcomes: Iterable[Outcome], references: bool = True) -> pd.DataFrame:
    """The sweep of the bound: the final values, what held-out images gave, and the mean and range of the last ten
    evaluations. The course report's sweep was trained by the published rule, one seed a bound."""
    outcomes = sorted(outcomes, key=lambda o: -o.config.beta)
    frame = results.table(outcomes, compared=False)
    if references:
        swept = {o.config.beta: o.config for o in outcomes}.values()
        rule = {"experiment": "learned_noise_v2_as_published", "noise_rule": "as_published"}
        theirs = [row for config in swept for row in reference.values(config.replace(**rule))]
        frame = pd.concat([frame, pd.DataFrame(theirs, columns=results.COLUMNS)], ignore_index=True)
    late = ("validation I-AUROC", "I-AUROC late mean", "I-AUROC late range")
    return pivot(frame, ("I-AUROC", "AP-det", "P-AUROC", "AUPRO", "AP-loc", *late))


def table8(outcomes: Iterable[Outcome], references: bool = True) -> pd.DataFrame:
    """Supervision regimes: AP-det, AP-loc, and by how much AP-det differs from full supervision in the same source."""
    frame = results.table(outcomes, references)
    means = frame[frame["seed"].isna() & (frame["metric"] == "AP-det")]
    supervised = means[means["experiment"] == "supervised"]
    full = results.unique(((row.dataset, row.source), row.mean) for row in supervised.itertuples())
    against = [full.get((row.dataset, row.source)) for row in means.itertuples()]
    gaps = means.assign(
        metric="Δ AP-det", mean=means["mean"] - pd.Series(against, means.index, float), std=float("nan")
    )
    gaps = gaps[gaps["mean"].notna() & (gaps["experiment"] != "supervised")]
    return pivot(pd.concat([frame, gaps], ignore_index=True), ("AP-det", "AP-loc", "Δ AP-det"))


def worth(outcomes: Iterable[Outcome], base: str, metrics: Sequence[str]) -> pd.DataFrame:
    """What each method is worth: its mean less that of the experiment ``base`` on the same data and backbone, and the
    95 % interval of the difference, seed by seed where all else is equal. Values are those at the end of training."""
    groups = results.groups(outcomes)
    bases = results.unique((_place(group), group) for group in groups if group.config.experiment == base)
    rows = []
    for group in groups:
        if group.config.experiment != base and (other := bases.get(_place(group))) is not None:
            names = [data_label(group.config), method_label(group.config)]
            shown = [_difference(group, other, metric) for metric in metrics]
            rows.append([*names, BACKBONES[group.config.backbone], f"{len(group.runs)} / {len(other.runs)}", *shown])
    against = f"against {experiment_label(base)}"
    return pd.DataFrame(rows, columns=["data", against, "backbone", "n", *(f"Δ {metric_label(m)}" for m in metrics)])


def _place(group: results.Group) -> tuple[str, str, str]:
    return group.config.dataset, group.config.category, group.config.backbone


def _difference(group: results.Group, other: results.Group, metric: str) -> str:
    if not (group.runs and other.runs):
        return NOT_RUN
    samples = group.sample(metric), other.sample(metric)
    if None in samples:
        return NOT_AVAILABLE
    if (found := difference(*samples, paired=group.pairs_with(other))) is None:
        return f"{samples[0].value - samples[1].value:+.3f} (one seed has no interval)"
    return f"{found.value:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"


def pivot(frame: pd.DataFrame, metrics: Sequence[str]) -> pd.DataFrame:
    """Means of the long table as rows of text, data by data in order of appearance."""
    means = frame[frame["seed"].isna()]
    rows = []
    for (dataset, category), of_data in means.groupby(["dataset", "category"], sort=False):
        keys = ["experiment", "backbone", "setting", "source"]
        for (experiment, backbone, setting, source), part in of_data.groupby(keys, sort=False):
            found = {row.metric: row for row in part.itertuples()}
            if not any(metric in found for metric in metrics):
                continue
            cells = [data_name(dataset, category), experiment_label(experiment), BACKBONES[backbone], source, setting]
            n, absent = part["n"].max(), NOT_AVAILABLE if source == "ours" else ""
            shown = [NOT_RUN if n == 0 else _cell(found.get(metric), n, absent) for metric in metrics]
            rows.append([*cells, _count(n, found.get("diverged")), *shown])
    return pd.DataFrame(rows, columns=[*_FRONT, *map(metric_label, metrics)])


def _cell(row: Any, n: int, absent: str) -> str:
    """0.613 ± 0.020; below a tenth two digits. A metric that some of the runs lack is not defined."""
    if row is None or row.n < n:
        return absent
    text = f"{row.mean:.3f}" if abs(row.mean) >= 0.1 else f"{row.mean:.2g}"
    return text if pd.isna(row.std) else f"{text} ± {row.std:.3f}"


def _count(n: int, diverged: Any) -> str:
    lost = 0 if diverged is None else round(diverged.mean * diverged.n)
    return f"{n} ({lost} diverged)" if lost else str(n)


def missing(outcomes: Iterable[Outcome]) -> pd.DataFrame:
    """What was not run: method, data, seeds, and the command of the first."""
    rows = []
    for group in results.groups(outcomes):
        if group.absent:
            seeds = " ".join(str(o.config.seed) for o in group.absent)
            rows.append([method_label(group.config), data_label(group.config), seeds, group.absent[0].command])
    return pd.DataFrame(rows, columns=["method", "data", "seeds", "command"])


def runs(outcomes: Iterable[Outcome]) -> pd.DataFrame:
    """One row per run: what it was trained on, by what device and for how long."""
    rows = []
    for outcome in outcomes:
        config = outcome.config
        method, data = method_label(config), data_label(config)
        row = {"method": method, "data": data, "seed": str(config.seed), "backbone": BACKBONES[config.backbone]}
        row |= {"epochs": str(config.epochs), "batch_size": str(config.batch_size), "status": NOT_RUN}
        if isinstance(outcome, RunResult):
            info = outcome.info
            row |= {"status": info["status"], "steps": str(info["steps"]), "seconds": f"{info['wall_seconds']:.0f}"}
            row |= {"device": info["device"], "train": str(info["data"]["train_used"])}
            row |= {"test": str(info["data"]["test"]), "note": info["note"]}
        rows.append(row)
    return pd.DataFrame(rows).fillna("")


def beta_means(runs: Iterable[RunResult], metric: str) -> pd.DataFrame:
    """Mean over the seeds of the validation and the test metric, by bound (index, descending)."""
    rows = results.unique(
        (group.config.beta, {"validation": group.values[f"validation {metric}"]["mean"], "test": found["mean"]})
        for group in results.groups(runs)
        if (found := group.values.get(metric)) is not None
    )
    return pd.DataFrame.from_dict(rows, orient="index").sort_index(ascending=False)


def beta_selection(runs: Sequence[RunResult]) -> pd.DataFrame:
    """Which bound a held-out part of the training data chooses, which one the test set would have chosen, and what the
    difference costs on the test set; for the mean over the seeds and for every seed alone."""
    columns = ["metric", "seed", "chosen_beta", "test_of_chosen", "oracle_beta", "test_of_oracle", "lost", "bounds"]
    rows = []
    seeds = sorted({run.config.seed for run in runs})
    for metric in SELECTED_BY if len({run.config.beta for run in runs}) > 1 else ():  # else there is no choice
        for name, part in [("mean", runs), *((str(s), select(runs, seed=s)) for s in seeds)]:
            means = beta_means(part, metric)
            chosen, oracle = means["validation"].idxmax(), means["test"].idxmax()
            best = [f"{means.loc[beta, 'test']:.4f}" for beta in (chosen, oracle)]
            lost = f"{means.loc[oracle, 'test'] - means.loc[chosen, 'test']:.4f}"
            bounds = " ".join(f"{beta:g}" for beta in means.index)
            rows.append((metric, name, f"{chosen:g}", best[0], f"{oracle:g}", best[1], lost, bounds))
    return pd.DataFrame(rows, columns=columns)
