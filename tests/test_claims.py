"""The claims ledger: verdicts from checks, checks from quantities, and the ledger of the report itself."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import yaml
from support import ROOT

from report.claims import compare, judge, load_claims, load_comparisons, weigh
from report.quantities import Quantity, missing_command, resolve
from ssn_core.errors import InputError
from ssn_core.runs.profiles import load_profile
from ssn_core.study.differences import CONFIRMED, OPEN, REFUTED
from ssn_core.study.results import aggregate

LEDGER = ROOT / "report" / "claims.yaml"
COMPARISONS = LEDGER.with_name("comparisons.yaml")
A_SCREW = {"experiment": "scenario_a", "category": "screw"}
B_SCREW = {"experiment": "scenario_b", "category": "screw"}
RUNS = {"runs": A_SCREW, "metric": "I-AUROC"}
B_RUNS = {"runs": B_SCREW, "metric": "I-AUROC"}
SETTLED = 0.001  # gained over the last third of the evaluations


def group(
    values: tuple[float, ...], where: dict = A_SCREW, rise: float | None = SETTLED, steps: int = 2000, **changes: object
) -> dict:
    """A group of runs, one a seed, as the summary has it."""
    samples = {seed: {"I-AUROC": v, "parameters": 4e6, "AUPRO": v} for seed, v in enumerate(values)}
    if rise is not None:
        samples = {seed: sample | {"I-AUROC rise": rise} for seed, sample in samples.items()}
    fields = {
        "method": "supersimplenet",
        "dataset": "mvtec",
        "beta": None,
        "backbone": "resnet18",
        "edge": False,
        "epochs": 12,
    }
    fields |= {
        "image_size": [256, 256],
        "batch_size": 8,
        "adaptor_lr": 1e-4,
        "head_lr": 2e-4,
        "validation_fraction": 0.0,
        "device": "cpu",
    }
    return {**where, **fields, "steps": steps, "n": len(values), "values": aggregate(samples)} | changes


def bench_row(experiment: str, value: float, **changes: object) -> dict:
    row = {"measurement": "memory_latency_batch1", "experiment": experiment, "value": value, "unit": "MB"}
    row |= {"spread_low": value, "spread_high": value, "conditions": "256x256, batch 1"}
    return row | {"device": "cuda", "precision": "float16", "batch": 1, "height": 256, "width": 256} | changes


def summary(*groups: dict, bench: tuple[dict, ...] = ()) -> dict:
    run = {**A_SCREW, "dataset": "mvtec", "beta": None, "backbone": "resnet18", "edge": False}
    commands = [
        {**run, "seed": 0, "there": True, "command": "run seed 0"},
        {**run, "seed": 1, "there": False, "command": "run seed 1"},
    ]
    published = {"source": "ICPR 2024", "category": "screw", "metric": "I-AUROC", "mean": 0.93, "std": 0.01}
    log = [{**A_SCREW, "metric": "I-AUROC", "final": 0.51, "late_mean": 0.5, "loss": 0.007}]
    return {"groups": list(groups), "commands": commands, "log": log, "published": [published], "bench": list(bench)}


def claim(*checks: dict) -> dict:
    both = {"en": "x", "it": "x"}
    return {"id": "x", "section": "1", "erratum": None, "claim": both, "test": both, "checks": list(checks)}


def judged(check: dict, *groups: dict, **others: tuple) -> dict:
    """The one check of a claim, judged."""
    return judge([claim(check)], summary(*groups, **others))[0]["checks"][0]


def outcome(check: dict, *groups: dict, **others: tuple) -> tuple[str, str]:
    found = judged(check, *groups, **others)
    return found["outcome"], found["reason"]


TIGHT, LOW, WIDE = (0.90, 0.91, 0.92), (0.70, 0.71, 0.72), (0.5, 0.7, 0.9)
OVER_HALF = {"left": RUNS, "op": ">", "right": {"value": 0.5}}


# What decides nothing


def test_what_the_cpu_profile_plans_is_long_enough_for_the_claims() -> None:
    images = {"bottle": 209, "carpet": 280, "screw": 320}
    checks = [check for claim in load_claims(LEDGER) for check in claim["checks"] if "min_steps" in check]
    sides = [(check["min_steps"], check[side].get("runs", {})) for check in checks for side in ("left", "right")]
    planned = load_profile("cpu").known()
    steps = {
        (c.run_id, least): c.epochs * math.ceil(round(images[c.category] * (1 - c.validation_fraction)) / c.batch_size)
        for least, where in sides
        for c in planned
        if c.category in images and (c.experiment, c.category) == (where.get("experiment"), where.get("category"))
    }
    assert len(steps) > 20 and {key: n for key, n in steps.items() if n < key[1]} == {}


def test_a_check_without_grounds_is_open_and_says_why() -> None:
    three = OVER_HALF | {"min_seeds": 3, "min_steps": 1500}
    assert outcome(three) == (OPEN, "not run")
    assert outcome(three, group(TIGHT[:1])) == (OPEN, "one run")
    assert outcome(three, group(TIGHT[:2])) == (OPEN, "too few seeds")
    assert outcome(three, group(TIGHT, steps=1499)) == (OPEN, "training too short")
    assert outcome(three, group(TIGHT, rise=None)) == (OPEN, "too few evaluations")
    assert outcome(three, group(TIGHT, rise=-0.3)) == (CONFIRMED, "")
    nowhere = {"left": RUNS, "op": ">", "right": {"published": {"source": "nobody"}, "metric": "I-AUROC"}}
    assert outcome(nowhere, group(TIGHT[:1])) == (OPEN, "no source")  # what is missing is said first


def test_a_side_that_was_still_rising_can_be_ahead_alone() -> None:
    """It would have ended higher, nobody knows by how much."""
    high, low = group(TIGHT, rise=0.03), group(LOW, rise=0.03)
    assert outcome(OVER_HALF, high) == (CONFIRMED, "")
    assert outcome(OVER_HALF | {"op": "<"}, high) == (REFUTED, "")
    ceiling = OVER_HALF | {"right": {"value": 0.95}}
    assert outcome(ceiling, group(LOW)) == (REFUTED, "")
    assert outcome(ceiling, low) == outcome(ceiling | {"op": "<="}, low) == (OPEN, "still rising")
    assert outcome(OVER_HALF | {"op": "==", "right": {"value": 0.91}, "margin": 0.1}, high) == (OPEN, "still rising")
    versus = {"left": RUNS, "op": ">", "right": B_RUNS}
    assert outcome(versus, high, group(LOW, B_SCREW)) == (CONFIRMED, "")
    assert outcome(versus, high, group(LOW, B_SCREW, rise=0.03)) == (OPEN, "still rising")


def test_one_run_decides_nothing_unless_the_quantity_is_exact() -> None:
    one = group((0.99,))
    assert outcome(OVER_HALF, one) == (OPEN, "one run")
    counted = {"left": {"runs": A_SCREW, "metric": "parameters"}, "op": "==", "right": {"value": 4e6}}
    assert outcome(counted, one) == (CONFIRMED, "")
    largest = {"left": {"runs": A_SCREW, "metric": "AUPRO", "statistic": "max"}, "op": "<=", "right": {"value": 1}}
    assert outcome(largest, one) == (CONFIRMED, "")
    logged = {"left": {"log": A_SCREW, "metric": "I-AUROC", "statistic": "final"}, "op": "<", "right": {"value": 0.55}}
    assert outcome(logged) == (CONFIRMED, "")


def test_a_low_loss_is_no_ground_and_a_ledger_may_not_ask_for_one(tmp_path: Path) -> None:
    path = tmp_path / "claims.yaml"
    path.write_text(yaml.safe_dump([claim(OVER_HALF | {"left": RUNS | {"max_loss": 0.5}})]))
    with pytest.raises(InputError, match="left has unknown max_loss"):
        load_claims(path)


# What decides


def test_a_wide_spread_confirms_nothing() -> None:
    equal = {"left": RUNS, "op": "==", "right": B_RUNS, "margin": 0.02}
    wide = group(WIDE), group((0.3, 0.5, 0.7), B_SCREW, epochs=24)
    assert outcome(equal, *wide) == (OPEN, "not separated")
    assert outcome(equal, group(TIGHT), group((0.902, 0.911, 0.922), B_SCREW)) == (CONFIRMED, "")
    assert outcome(equal | {"op": ">"}, group(TIGHT), group((0.902, 0.911, 0.922), B_SCREW)) == (
        OPEN,
        "within the margin",
    )
    assert outcome(equal, group(TIGHT), group(LOW, B_SCREW)) == (REFUTED, "")


def test_seeds_are_paired_where_one_change_parts_the_sides() -> None:
    order = {"left": RUNS, "op": ">", "right": B_RUNS, "margin": 0.01}
    b = tuple(v - 0.05 - 0.001 * i for i, v in enumerate(WIDE))
    same = judged(order, group(WIDE), group(b, B_SCREW))
    assert (same["outcome"], same["difference"]["pairs"]) == (CONFIRMED, 3)
    for change in ({"epochs": 24}, {"validation_fraction": 0.1}, {"dataset": "ksdd1"}):
        other = judged(order, group(WIDE), group(b, B_SCREW, **change))
        assert (other["outcome"], other["difference"]["pairs"]) == (OPEN, 0), change


def test_published_means_of_five_runs_are_a_sample() -> None:
    published = {"published": {"source": "ICPR 2024", "category": "screw"}, "metric": "I-AUROC"}
    check = judged({"left": published, "op": "==", "right": {"value": 0.94}, "margin": 0.02})
    half = 2.776445 * 0.01 / 5**0.5
    assert check["difference"]["low"] == pytest.approx(-0.01 - half, abs=1e-6)
    assert (check["outcome"], check["reason"]) == (OPEN, "not separated")


def test_a_size_that_a_claim_states_moves_its_right_side() -> None:
    """Ten points below: refuted by a tight difference of five, as a margin would not be."""
    check = {"left": B_RUNS, "op": "<", "right": RUNS | {"plus": -0.1}}
    five, twenty = (tuple(v - gap for v in TIGHT) for gap in (0.05, 0.2))
    assert outcome(check, group(TIGHT), group(five, B_SCREW, epochs=12)) == (REFUTED, "")
    assert outcome(check, group(TIGHT), group(twenty, B_SCREW)) == (CONFIRMED, "")


def test_memory_is_compared_only_on_the_terms_of_the_claim() -> None:
    def side(experiment: str, **more: float) -> dict:
        return {"bench": {"measurement": "memory_latency_batch1", "experiment": experiment}, "column": "value"} | more

    check = {"left": side("scenario_a"), "op": "<=", "right": side("baseline", times=0.2)}
    check |= {"terms": {"device": "cuda", "precision": "float16", "batch": 1}}
    rows = bench_row("scenario_a", 50.0), bench_row("baseline", 270.0)
    assert outcome(check, bench=rows) == (CONFIRMED, "")
    for name, value in (("device", "cpu"), ("precision", "float32"), ("batch", 16)):
        off = tuple(row | {name: value} for row in rows)
        assert outcome(check, bench=off) == (OPEN, "not comparable"), name
    del check["terms"]
    assert outcome(check, bench=(rows[0], rows[1] | {"height": 128})) == (OPEN, "not comparable")
    assert outcome(check, bench=(rows[0] | {"spread_high": 60.0}, rows[1])) == (OPEN, "not separated")
    assert judged(check, bench=rows[:1])["command"] == "make bench"


def test_a_verdict_needs_every_check() -> None:
    holds, fails = OVER_HALF, {"left": RUNS, "op": "<", "right": {"value": 0.1}}
    undecided = {"left": {"runs": {"experiment": "baseline"}, "metric": "I-AUROC"}, "op": ">", "right": {"value": 0.1}}
    claims = [claim(*checks) for checks in ([holds], [holds, undecided], [undecided, fails])]
    assert [c["verdict"] for c in judge(claims, summary(group(TIGHT)))] == [CONFIRMED, OPEN, REFUTED]


# Quantities


def test_quantities_come_from_runs_and_files() -> None:
    found = resolve({**RUNS, "times": 2, "plus": 0.1}, summary(group(TIGHT)))
    assert (found.value, found.n, found.rise, found.command) == (pytest.approx(1.92), 3, SETTLED, "run seed 1")
    assert found.std == pytest.approx(2 * 0.01) and found.seeds["2"] == pytest.approx(1.94)
    assert resolve({"log": A_SCREW, "metric": "I-AUROC", "statistic": "final"}, summary()).value == 0.51
    assert resolve({"log": A_SCREW, "metric": "I-AUROC", "statistic": "loss"}, summary()).value == 0.007
    assert resolve({"runs": B_SCREW, "metric": "I-AUROC"}, summary()).value is None
    assert missing_command(B_SCREW, summary()) is None
    few = judged(OVER_HALF | {"min_seeds": 4}, group(TIGHT))
    assert (few["reason"], few["command"]) == ("too few seeds", "run seed 1")
    assert judged(OVER_HALF, group(TIGHT))["command"] is None


def test_sides_of_one_group_are_paired_too() -> None:
    both = resolve(RUNS, summary(group(WIDE)))
    found, reason = weigh(both, both)
    assert (found.pairs, found.low, found.high, reason) == (3, 0, 0, "")
    assert isinstance(both, Quantity)


# Sentences


def test_a_misspelt_field_is_no_missing_run() -> None:
    with pytest.raises(InputError, match="results have no catgory; they have experiment"):
        resolve(
            {"runs": {"experiment": "scenario_a", "catgory": "screw"}, "metric": "I-AUROC"}, summary(group((0.5, 0.6)))
        )


def test_a_look_up_that_names_no_backbone_means_the_reports_own() -> None:
    own, edge = group((0.5, 0.6)), group((0.8, 0.9), backbone="efficientnet_lite0", edge=True)
    for where, value in ((A_SCREW, 0.55), (A_SCREW | {"backbone": "efficientnet_lite0"}, 0.85)):
        found = resolve({"runs": where, "metric": "I-AUROC"}, summary(own, edge))
        assert found.value == pytest.approx(value)


def test_comparisons_choose_sentences() -> None:
    names = {"more": LOW, "less": (0.97, 0.98, 0.99), "same": TIGHT}
    check = {"one": {"left": RUNS, "right": B_RUNS, "margin": 0.02}}
    for name, values in names.items():
        found = compare(check, summary(group(TIGHT), group(values, B_SCREW)))
        assert (found["one"]["outcome"], found["one"]["reason"]) == (name, "")
    assert compare(check, summary(group(TIGHT)))["one"]["outcome"] == "absent"
    alone = {"outcome": "open", "reason": "one run", "difference": None}
    assert compare(check, summary(group(TIGHT[:1]), group(LOW[:1], B_SCREW)))["one"] == alone
    rising = compare(check, summary(group(TIGHT), group(LOW, B_SCREW, rise=0.05)))
    assert (rising["one"]["outcome"], rising["one"]["reason"]) == ("open", "still rising")
    assert rising["one"]["difference"]["value"] == pytest.approx(0.2)
    close = compare(check, summary(group(TIGHT), group((0.85, 0.88, 0.91), B_SCREW, rise=0.05)))
    assert (close["one"]["outcome"], close["one"]["reason"]) == ("open", "not separated")
    leading = compare(check, summary(group(TIGHT, rise=0.05), group(LOW, B_SCREW)))
    assert (leading["one"]["outcome"], leading["one"]["reason"]) == ("more", "")


def test_a_broken_comparison_is_named(tmp_path: Path) -> None:
    path = tmp_path / "comparisons.yaml"
    path.write_text(yaml.safe_dump({"a": {"left": RUNS, "right": RUNS}, "b": {"left": {}, "right": RUNS, "margin": 0}}))
    with pytest.raises(InputError, match="a: keys margin are unknown or missing; b: left needs exactly one of"):
        load_comparisons(path)


def test_the_sentences_of_both_languages_compare_the_same_things() -> None:
    known, used = set(load_comparisons(COMPARISONS)), {}
    for language in ("en", "it"):
        text = "".join(p.read_text("utf-8") for p in sorted((LEDGER.parent / language).glob("*.typ")))
        used[language] = set(re.findall(r'compare\("([^"]+)"', text))
    betas = {name for name in known if name.startswith("beta-0")}  # looked up pair by pair
    assert used["en"] == used["it"] == known - betas and len(betas) == 6


# The ledger's file


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"checks": [{"left": RUNS, "op": "~", "right": {"value": 1}}]}, "op='~' must be one of"),
        ({"checks": [{"left": RUNS, "op": ">"}]}, "unknown or missing right"),
        ({"checks": [{"left": {"runs": {}, "value": 1}, "op": ">", "right": {"value": 1}}]}, "exactly one of"),
        ({"checks": [{"left": {"value": 1, "wrong": 2}, "op": ">", "right": {"value": 1}}]}, "left has unknown wrong"),
        (
            {"checks": [{"left": RUNS, "op": ">", "right": {"value": 1}, "terms": {"colour": 1}}]},
            "terms has unknown colour",
        ),
        ({"claim": {"en": "x"}}, "claim needs the languages en and it"),
        ({"verdict": "confirmed"}, "verdict are unknown"),
    ],
)
def test_a_broken_ledger_names_claim_and_field(tmp_path: Path, change: dict, message: str) -> None:
    path = tmp_path / "claims.yaml"
    path.write_text(yaml.safe_dump([{**claim(), **change}]))
    with pytest.raises(InputError, match=message) as caught:
        load_claims(path)
    assert str(path) in str(caught.value) and "x:" in str(caught.value)


def test_an_id_serves_one_claim(tmp_path: Path) -> None:
    path = tmp_path / "claims.yaml"
    path.write_text(yaml.safe_dump([claim(), claim()]))
    with pytest.raises(InputError, match="x: used twice"):
        load_claims(path)


def test_the_reports_ledger_covers_every_known_disagreement() -> None:
    claims = load_claims(LEDGER)
    assert len(claims) >= 14
    assert {c["erratum"] for c in claims if c["erratum"]} == set(range(1, 13))
    assert "verdict" not in LEDGER.read_text(encoding="utf-8").replace("No verdict is written here", "")
