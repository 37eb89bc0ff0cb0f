"""The run store: ``run(config)`` trains what is absent, resumes what is half done and loads what is finished."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file

from ssn_core.data.datasets import find_root, fingerprint_at_hand, open_dataset
from ssn_core.errors import InputError
from ssn_core.models.detectors import Detector, build_model
from ssn_core.models.weights import digest, weights_path
from ssn_core.runs import STORE
from ssn_core.runs.checkpoint import tidy
from ssn_core.runs.config import RunConfig
from ssn_core.runs.guard import interrupted_by, owned
from ssn_core.runs.result import CHECKPOINT, MODEL, Log, RunResult, find_run, load_run, read_run_file
from ssn_core.runs.runner import Runner
from ssn_core.runs.trainer import trained_state


def run(
    config: RunConfig,
    store: str | Path = STORE,
    data_root: str | Path | None = None,
    device: str | torch.device | None = None,
    checkpoint_seconds: float = 30.0,
    log: Log = print,
) -> RunResult:
    """Train and evaluate one configuration, or load it when its folder in ``store`` is finished; where other data than
    it was made with are at hand, that is an error.

    An interrupted run resumes from its checkpoint and, on a CPU, ends with the same bits as an uninterrupted one.
    ``data_root``: see :func:`ssn_core.find_root`. All input is checked before training (:class:`InputError`).
    A non-finite loss ends a Gaussian run with :class:`ssn_core.runs.trainer.NonFiniteLoss` and keeps the checkpoint of
    the last good epoch; a learned-noise run is then recorded as diverged and evaluated as of that epoch.
    A run that another process is making is refused; Ctrl-C and SIGTERM save the last whole epoch and raise
    :class:`ssn_core.errors.Stopped`.
    """
    folder = Path(store) / config.run_id
    if (finished := find_run(config, store)) is not None:
        tidy(folder)
        return _of_these_data(finished, data_root, log)
    device = usable_device(device)
    with interrupted_by(signal.SIGTERM), owned(folder) as gone:  # first of all: it is what tries to write there
        dataset = open_dataset(config.dataset, config.category, data_root, training_masks=config.needs_training_masks)
        if gone:
            log(f"[{config.run_id}] taken over from {gone}, which has ended")
        if find_run(config, store) is None:  # else its last owner ended just now
            with memory_errors(config, folder):
                Runner(config, folder, dataset, device, checkpoint_seconds, log).complete()
        return load_run(folder)


def _of_these_data(finished: RunResult, data_root: str | Path | None, log: Log) -> RunResult:
    """A finished run, refused where other data are at hand than those it was made with; results that come without
    their data, as the committed ones, are read as they are."""
    config = finished.config
    found = fingerprint_at_hand(config.dataset, config.category, data_root, config.needs_training_masks)
    made = finished.info.get("data", {}).get("fingerprint")
    if found not in (None, made):
        raise InputError(
            f"{finished.path} was made with other data (fingerprint {str(made)[:12]}) than "
            f"{find_root(config.dataset, config.category, data_root)} holds ({found[:12]}); point data_root (or "
            "SSN_DATA_DIR) at the data it was made with; to train on these, delete that folder or choose another store"
        )
    if found:
        log(f"[{config.run_id}] loaded, not trained; its data are unchanged")
    return finished


def _too_old(device: torch.device) -> str | None:
    """What is wrong with a GPU that is visible and for which this torch has no kernels: Kaggle's P100 is one."""
    built = [int(name.removeprefix("sm_")) for name in torch.cuda.get_arch_list() if name[3:].isdigit()]
    major, minor = torch.cuda.get_device_capability(device)
    if not built or 10 * major + minor >= min(built):
        return None
    name = f"{torch.cuda.get_device_name(device)} (sm_{major}{minor}; the oldest known is sm_{min(built)})"
    return f"torch {torch.__version__} has no kernels for {name}"


@contextlib.contextmanager
def memory_errors(config: RunConfig, folder: Path) -> Iterator[None]:
    """A GPU's memory that does not suffice is one line that names what to lower."""
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        height, width = config.image_size
        kept = f"; the checkpoint of this run stays in {folder}" if (folder / CHECKPOINT).is_file() else ""
        first = str(error).splitlines()[0].split(". GPU")[0].rstrip(".")
        raise InputError(
            f"run {config.run_id}: {first}. Lower batch_size={config.batch_size} or "
            f"image_size={height},{width}, or use a device with more memory{kept}"
        ) from error


def usable_device(device: str | torch.device | None = None) -> torch.device:
    """The device asked for, or the GPU where there is one; :class:`InputError` where it cannot be used."""
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(device)
        if device.type == "cuda" and (old := _too_old(device)):
            raise InputError(f"device={str(device)!r}: {old}; choose another GPU (on Kaggle a T4) or cpu")
        torch.zeros((), device=device)
        return device
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # torch was built without it, or it is absent
        reason = str(error).splitlines()[0]
        raise InputError(f"device={str(device)!r} cannot be used here ({reason}); choose cpu or cuda") from error


def load_model(path: str | Path) -> Detector:
    """The trained model of a run folder, in eval mode on the CPU."""
    result = load_run(path)
    config, trained_on = result.config, result.info.get("weights_sha256")
    file = Path(path) / MODEL
    if not file.is_file():
        raise InputError(
            f"{file} is missing: weights are not kept with committed results. Delete the folder {path} "
            "(or choose another store) and run its configuration again"
        )
    model = build_model(**config.model_arguments())
    if trained_on not in (None, digest(model.trunk)):
        raise InputError(
            f"{path} was trained on other weights of {config.backbone} than {weights_path(config.backbone)} holds; "
            "put the weights back that it was trained on, or delete the folder and run the configuration again"
        )
    wanted, state = trained_state(model), read_run_file(file, load_file)
    if {k: v.shape for k, v in state.items()} != {k: v.shape for k, v in wanted.items()}:
        raise InputError(f"{file} does not fit its run.json; delete the folder {path} and run the configuration again")
    model.load_state_dict(state, strict=False)
    return model.eval()
