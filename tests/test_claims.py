"""The claims ledger: verdicts from checks, checks from quantities, and the ledger of the report itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from ssn_core.claims import CONFIRMED, OPEN, REFUTED, Quantity, decide, judge, load_claims, missing_command, resolve
from ssn_core.errors import InputError

LEDGER = Path(__file__).parents[1] / "report" / "claims.yaml"
A_SCREW = {"experiment": "scenario_a", "category": "screw"}


def quantity(value: float | None, source: str = "runs", **fields: object) -> Quantity:
    return Quantity(source, {}, "I-AUROC", "mean", value, **fields)


@pytest.mark.parametrize(
    ("left", "op", "right", "margin", "outcome"),
    [
        (0.80, ">", 0.70, 0.05, CONFIRMED),
        (0.72, ">", 0.70, 0.05, OPEN),  # within the margin nobody is ahead
        (0.60, ">", 0.70, 0.05, REFUTED),
        (0.70, ">", 0.70, 0.0, REFUTED),
        (0.60, "<", 0.70, 0.05, CONFIRMED),
        (0.80, "<", 0.70, 0.05, REFUTED),
        (0.68, ">=", 0.70, 0.05, CONFIRMED),
        (0.60, ">=", 0.70, 0.05, REFUTED),
        (0.72, "<=", 0.70, 0.05, CONFIRMED),
        (0.80, "<=", 0.70, 0.05, REFUTED),
        (0.72, "==", 0.70, 0.05, CONFIRMED),
        (0.80, "==", 0.70, 0.05, REFUTED),
    ],
)
def test_an_outcome_follows_from_difference_and_margin(
    left: float, op: str, right: float, margin: float, outcome: str
) -> None:
    assert decide(quantity(left, "value"), op, quantity(right, "value"), margin)[0] == outcome


def test_a_check_without_grounds_is_open_and_says_why() -> None:
    one, sure = quantity(0.9, n=1, conditions={"steps": 100}), quantity(0.5, "value")
    assert decide(quantity(None), ">", sure, 0.0, 1) == (OPEN, "not run")
    assert decide(quantity(None, "published"), ">", sure, 0.0, 1) == (OPEN, "no source")
    assert decide(one, ">", sure, 0.0, 3) == (OPEN, "too few seeds")
    assert decide(one, ">", sure, 0.0, 1, 101) == (OPEN, "training too short")
    assert decide(one, ">", sure, 0.0, 1, 100) == (CONFIRMED, "")
    stuck = quantity(0.9, n=3, conditions={"steps": 100}, converged=False)
    assert decide(stuck, ">", sure, 0.0, 3) == (OPEN, "not converged")


def summary(n: int = 3, mean: float = 0.6, std: float | None = 0.1, loss: float = 0.1) -> dict:
    def value(x: float, s: float | None) -> dict:
        return {"mean": x, "std": s, "min": x, "max": x, "n": n}

    values = {"I-AUROC": value(mean, std), "loss-last": value(loss, 0.0)}
    group = {**A_SCREW, "dataset": "mvtec", "beta": None, "epochs": 12, "steps": 960, "n": n, "device": "cpu"}
    commands = [
        {**A_SCREW, "dataset": "mvtec", "beta": None, "seed": 0, "there": True, "command": "run seed 0"},
        {**A_SCREW, "dataset": "mvtec", "beta": None, "seed": 1, "there": False, "command": "run seed 1"},
    ]
    log = [{**A_SCREW, "metric": "I-AUROC", "final": 0.51, "late_mean": 0.5, "loss": 0.007}]
    return {"groups": [{**group, "backbone": "resnet18", "values": values}], "commands": commands, "log": log}


def claim(*checks: dict) -> dict:
    both = {"en": "x", "it": "x"}
    return {"id": "x", "section": "1", "erratum": None, "claim": both, "test": both, "checks": list(checks)}


RUNS = {"runs": A_SCREW, "metric": "I-AUROC"}


def test_a_verdict_needs_every_check() -> None:
    holds = {"left": RUNS, "op": ">", "right": {"value": 0.1}}
    fails = {"left": RUNS, "op": "<", "right": {"value": 0.1}}
    undecided = {"left": {"runs": {"experiment": "baseline"}, "metric": "I-AUROC"}, "op": ">", "right": {"value": 0.1}}
    verdicts = [
        c["verdict"] for c in judge([claim(*c) for c in ([holds], [holds, undecided], [undecided, fails])], summary())
    ]
    assert verdicts == [CONFIRMED, OPEN, REFUTED]


def test_the_spread_between_seeds_widens_the_margin() -> None:
    check = claim({"left": RUNS, "op": ">", "right": {"value": 0.55}})
    noisy = judge([check], summary(std=0.1))[0]
    assert (noisy["verdict"], noisy["checks"][0]["reason"]) == (OPEN, "within the margin")
    assert noisy["checks"][0]["margin"] == pytest.approx(2 * 0.1 / 3**0.5)
    assert judge([check], summary(std=0.001))[0]["verdict"] == CONFIRMED


def test_quantities_come_from_runs_and_files() -> None:
    found = resolve({**RUNS, "times": 2, "max_loss": 0.5}, summary())
    assert (found.value, found.n, found.converged, found.command) == (1.2, 3, True, "run seed 1")
    assert not resolve({**RUNS, "max_loss": 0.5}, summary(loss=1.0)).converged
    assert resolve({"log": A_SCREW, "metric": "I-AUROC", "statistic": "final"}, summary()).value == 0.51
    assert resolve({"log": A_SCREW, "metric": "I-AUROC", "statistic": "loss"}, summary()).value == 0.007
    absent = resolve({"runs": {"experiment": "scenario_b"}, "metric": "I-AUROC"}, summary())
    assert absent.value is None
    assert missing_command({"experiment": "scenario_b"}, summary()) is None
    few = claim({"left": RUNS, "op": ">", "right": {"value": 0.1}, "min_seeds": 4})
    assert judge([few], summary())[0]["checks"][0]["command"] == "run seed 1"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"checks": [{"left": RUNS, "op": "~", "right": {"value": 1}}]}, "op='~' must be one of"),
        ({"checks": [{"left": RUNS, "op": ">"}]}, "unknown or missing right"),
        ({"checks": [{"left": {"runs": {}, "value": 1}, "op": ">", "right": {"value": 1}}]}, "exactly one of"),
        ({"checks": [{"left": {"value": 1, "wrong": 2}, "op": ">", "right": {"value": 1}}]}, "left has unknown wrong"),
        ({"claim": {"en": "x"}}, "claim needs the languages en and it"),
        ({"verdict": "confirmed"}, "verdict are unknown"),
    ],
)
def test_a_broken_ledger_names_claim_and_field(tmp_path: Path, change: dict, message: str) -> None:
    import yaml

    path = tmp_path / "claims.yaml"
    path.write_text(yaml.safe_dump([{**claim(), **change}]))
    with pytest.raises(InputError, match=message) as caught:
        load_claims(path)
    assert str(path) in str(caught.value) and "x:" in str(caught.value)


def test_an_id_serves_one_claim(tmp_path: Path) -> None:
    import yaml

    path = tmp_path / "claims.yaml"
    path.write_text(yaml.safe_dump([claim(), claim()]))
    with pytest.raises(InputError, match="x: used twice"):
        load_claims(path)


def test_the_reports_ledger_covers_every_known_disagreement() -> None:
    claims = load_claims(LEDGER)
    assert len(claims) >= 14
    assert {c["erratum"] for c in claims if c["erratum"]} == set(range(1, 12))
    assert "verdict" not in LEDGER.read_text(encoding="utf-8").replace("No verdict is written here", "")
