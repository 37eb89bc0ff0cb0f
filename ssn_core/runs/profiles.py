"""Profiles: which runs an execution of the notebooks makes, at what cost; read by notebooks and command line alike."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from ssn_core.data.datasets import open_dataset
from ssn_core.data.find import find_root
from ssn_core.data.synthetic import make_synthetic
from ssn_core.errors import InputError
from ssn_core.runs.config import RunConfig
from ssn_core.runs.presets import preset
from ssn_core.runs.result import Log, RunResult, find_run


@dataclass(frozen=True)
class NotRun:
    """A run that a profile names and that this machine has no data or weights for; tables show it as "not run"."""

    config: RunConfig
    reason: str

    @property
    def command(self) -> str:
        """The shell command that makes it."""
        return run_command(self.config)


def project_root() -> Path:
    """The checkout: the folder above the package, or the working directory or its parent, that holds profiles/."""
    for folder in (Path(__file__).parents[2], Path.cwd(), Path.cwd().parent):
        if (folder / "profiles").is_dir():
            return folder
    raise InputError(f"no profiles/ folder near {Path.cwd()}; work inside a checkout of the project")


@dataclass(frozen=True)
class Profile:
    """A profile file, key by key; ``store`` and ``figures`` are folders below the checkout. A ``synthetic`` one can be
    run anywhere: its data are drawn, and its weights come with pip."""

    name: str
    description: str
    store: Path
    figures: Path
    synthetic: bool
    defaults: dict[str, Any]
    experiments: dict[str, dict[str, Any] | list[dict[str, Any]]]
    bench: dict[str, Any]  # see ssn_core.bench.plan.Settings

    def configs(self, experiment: str) -> list[RunConfig]:
        """Every configuration of one experiment of the profile: of each of its entries, the categories times the
        seeds. It may be one entry or a list of them, where runs differ in more than that."""
        if experiment not in self.experiments:
            raise InputError(
                f"profile {self.name!r} has no experiment {experiment!r}; it has {', '.join(self.experiments)}"
            )
        given = self.experiments[experiment]
        entries = given if isinstance(given, list) else [given]
        return [config for entry in entries for config in _expand(experiment, self.defaults, entry)]

    def known(self) -> list[RunConfig]:
        """Every run of the notebooks that is known beforehand, each once; notebook 05 adds SimpleNet under the
        conditions of the unsupervised runs."""
        configs = [config for name in self.experiments for config in self.configs(name)]
        peers = (simplenet_like(config) for config in configs if config.experiment == "unsupervised")
        return list(dict.fromkeys([*configs, *peers]))

    def run(self, runs: str | list[RunConfig], device: str | None = None, log: Log = print) -> list[RunResult | NotRun]:
        """Run or load one experiment on the report's backbones, or what is given; see :func:`ssn_core.run`."""
        from ssn_core.runs.store import run  # loads torch, which reading finished runs does without

        configs = [c for c in self.configs(runs) if not c.edge] if isinstance(runs, str) else runs
        self.prepare()
        missing = {c.run_id: NotRun(c, reason) for c in configs if (reason := self.unavailable(c))}
        if missing and self.synthetic:
            raise InputError(f"profile {self.name!r}: {next(iter(missing.values())).reason}")
        return [missing.get(c.run_id) or run(c, self.store, self.data_root(c), device=device, log=log) for c in configs]

    def prepare(self) -> None:
        """Draw the synthetic sets where the profile is about them and they are not drawn yet."""
        if self.synthetic:
            make_synthetic(project_root() / "data" / "synthetic")

    def data_root(self, config: RunConfig) -> Path | None:
        """Where a run's data lie if that is the profile's matter; None: wherever :func:`ssn_core.find_root` looks."""
        return project_root() / "data" / "synthetic" if config.dataset == "synthetic" else None

    def unavailable(self, config: RunConfig) -> str | None:
        """Why a run cannot be made here, or None. A data set that is there and broken is not "unavailable"."""
        if find_run(config, self.store) is not None:
            return None
        try:
            find_root(config.dataset, config.category, self.data_root(config))
        except InputError as error:
            return f"data: {error}"
        from ssn_core.models.weights import weights_path

        if not self.synthetic and weights_path(config.backbone) is None:
            return f"weights: none of {config.backbone} on this machine (the run's command downloads torchvision's)"
        return None

    def dataset(self, config: RunConfig) -> Any:
        """The opened data set of a configuration (for panels), or None where it is not on this machine."""
        try:
            find_root(config.dataset, config.category, self.data_root(config))
        except InputError:
            return None
        return open_dataset(config.dataset, config.category, self.data_root(config))


def load_profile(name: str) -> Profile:
    """Read ``profiles/<name>.yaml`` of the checkout; unknown keys, experiments and fields are errors that name them."""
    root = project_root()
    path = root / "profiles" / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in (root / "profiles").glob("*.yaml")))
        raise InputError(f"profile {name!r} is unknown (no {path}); choose one of {known}")
    raw = _checked(path)
    paths = {key: root / str(raw[key]) for key in ("store", "figures")}
    profile = Profile(name, **{**raw, **paths})
    for experiment in profile.experiments:
        try:
            profile.configs(experiment)  # a bad field fails here, before anything runs
        except InputError as error:
            raise InputError(f"{path}: {experiment}: {error}") from error
    return profile


def _checked(path: Path) -> dict[str, Any]:
    """The content of a profile file, of the right shape."""
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    known = {field.name for field in fields(Profile)} - {"name"}
    if wrong := sorted(known ^ set(map(str, raw if isinstance(raw, dict) else ()))):
        raise InputError(
            f"{path}: keys {', '.join(wrong)} are unknown or missing; a profile has {', '.join(sorted(known))}"
        )
    if bad := [key for key in ("defaults", "experiments", "bench") if not isinstance(raw[key], dict)]:
        raise InputError(f"{path}: {bad[0]} must be a mapping of names to values")
    return raw


def matched_control(result: RunResult) -> RunConfig | None:
    """The control of a learned-noise run: fixed Gaussian noise of the RMS that the learned noise had on average, all
    else equal. It tells what the generator learned from how loud it was. None where the run broke down before there
    was any noise."""
    if result.history.empty:
        return None
    rms = float(result.history["noise_rms"].mean())
    fields = result.config.as_dict() | {"experiment": "noise_control", "noise": "gaussian", "beta": None}
    fields |= {"noise_rule": "adversarial", "noise_unit": "absolute", "noise_std": float(f"{rms:.3g}")}
    return RunConfig(**fields)


def simplenet_like(config: RunConfig) -> RunConfig:
    """SimpleNet on the data and under the conditions of an unsupervised run: nothing differs but the method."""
    return config.replace(experiment="simplenet", method="simplenet")


def ksdd2_peers(profile: Profile) -> list[RunResult | NotRun]:
    """KolektorSDD2's own runs of the weak-supervision notebook, by the protocol of the profile "full", as far as they
    are in the profile's store; so a profile on other data shows what published figures to compare with. Empty where the
    profile runs KolektorSDD2 itself."""
    if any(config.dataset == "ksdd2" for config in profile.configs("weak_gap_cam")):
        return []
    full = load_profile("full")
    names = ("weak_gap_cam", "weak_gap_cam_as_published", "weak", "supervised", "unsupervised")
    configs = [full.configs(name)[0] for name in names]
    configs.append(simplenet_like(configs[-1]))
    return [find_run(c, profile.store) or NotRun(c, "belongs to the profile full") for c in configs]


def run_command(config: RunConfig, store: str | Path = "data/results") -> str:
    """The shell command that makes one run, by default where the report reads it."""
    base = preset(config.experiment).as_dict()
    changed = {k: v for k, v in config.as_dict().items() if v != base[k]}
    fields = [f"{k}={','.join(map(str, v)) if isinstance(v, list) else v}" for k, v in changed.items()]
    return shlex.join(["python", "-m", "ssn_core", "run", config.experiment, *fields, "--store", str(store)])


def older(result: RunResult, lacks: str) -> str:
    """A line about a finished run that was made before runs kept what a picture needs."""
    command = run_command(result.config)
    return f"{result.config.run_id} keeps no {lacks}: it is an older run; delete its folder, then {command}"


def _expand(experiment: str, defaults: dict[str, Any], entry: Any) -> Iterator[RunConfig]:
    """``categories`` and ``seeds`` are lists to multiply; everything else is a field of RunConfig."""
    if not isinstance(entry, dict):
        raise InputError("an entry must be a mapping, for example {categories: [bottle]}")
    entry = {"categories": ["bottle"], "seeds": [0]} | entry
    if wrong := [key for key in ("categories", "seeds") if not isinstance(entry[key], list)]:
        raise InputError(f"{wrong[0]} must be a list, for example [{entry[wrong[0]]}]")
    for category, seed in itertools.product(entry.pop("categories"), entry.pop("seeds")):
        yield preset(experiment, **{**defaults, **entry, "category": category, "seed": seed})
