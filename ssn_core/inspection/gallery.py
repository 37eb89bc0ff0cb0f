"""A folder's images as a finished run sees them: their scores at once, a picture when it is asked for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ssn_core.data.datasets import open_dataset
from ssn_core.data.find import OWN
from ssn_core.data.images import read_mask
from ssn_core.data.layouts import Sample
from ssn_core.data.synthetic import make_synthetic
from ssn_core.errors import InputError
from ssn_core.fast.inference import FoldedDetector
from ssn_core.inspection.prediction import Inspected, inspect_all, opened
from ssn_core.inspection.threshold import Threshold
from ssn_core.models.weights import weights_path
from ssn_core.runs.config import RunConfig
from ssn_core.runs.presets import preset
from ssn_core.runs.profiles import project_root
from ssn_core.runs.result import RunResult, load_run, locate_run
from ssn_core.runs.store import run


@dataclass(frozen=True)
class Gallery:
    """``samples`` with the maxima of their anomaly maps, ``map_scores`` (n,); ``lowest`` is their least value.

    A folder where no image is known to be defective may hold images that nobody has labelled: see ``labelled``.
    """

    run: RunResult
    samples: tuple[Sample, ...]
    map_scores: np.ndarray
    lowest: float
    model: FoldedDetector

    @classmethod
    def of(cls, result: RunResult, folder: Path, device: str | None = None) -> Gallery:
        """Score the test images of ``folder``, or all of them where it has no test split."""
        samples, model = labelled_samples(folder), opened(result, device)
        maps = (seen.anomaly_map for seen in inspect_all(model, samples))
        ends = np.array([(values.min(), values.max()) for values in maps])
        return cls(result, samples, ends[:, 1], float(ends[:, 0].min()), model)

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def labels(self) -> np.ndarray:
        """0 good, 1 defective, (n,)."""
        return np.array([sample.label for sample in self.samples])

    @property
    def labelled(self) -> bool:
        """Whether right and wrong can be told apart."""
        return bool(self.labels.any())

    @property
    def threshold(self) -> Threshold:
        """The run's own."""
        return Threshold.of(self.run)

    def look(self, number: int) -> Inspected:
        """Compute one image again: maps of thousands would not fit into memory. With its marked defect where any of the
        defective images is marked."""
        sample = self.samples[number]
        [seen] = inspect_all(self.model, [sample])
        if not any(other.mask for other in self.samples if other.label):
            return seen
        size = seen.anomaly_map.shape
        return replace(seen, truth=np.zeros(size, bool) if sample.mask is None else read_mask(sample.mask, size))


def labelled_samples(folder: Path) -> tuple[Sample, ...]:
    """The test split of a folder in a data set's layout, all images of any other. Raises :class:`InputError`."""
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder")
    dataset = open_dataset(OWN, folder.resolve().name, folder)
    return dataset.test if dataset.layout else dataset.train + dataset.test


def open_gallery(folder: str | None, place: str | None, device: str | None = None) -> Gallery:
    """Images of ``folder`` as the run at ``place`` sees them (a run folder, or a store or glob that holds one); without
    both, the synthetic plates and a memory of their good features, which seconds make."""
    if (folder is None) != (place is None):
        given, absent = ("folder", "run") if place is None else ("run", "folder")
        raise InputError(f"{given} is given without {absent}: give both (`ssn train FOLDER` makes a run), or neither")
    if folder is not None and place is not None:
        return Gallery.of(load_run(locate_run(Path(place).expanduser())), Path(folder).expanduser(), device)
    config = example_config()
    root = make_synthetic(project_root() / "data" / "synthetic")
    result = run(config, project_root() / "build" / "example", root, device, log=lambda _: None)  # bars say enough
    return Gallery.of(result, root / config.category, device)


def example_config() -> RunConfig:
    """A memory of the synthetic plates, with the backbone that comes with pip; on a machine where pip may not install,
    with the one whose weights people bring."""
    backbone = "efficientnet_lite0" if weights_path("efficientnet_lite0") else "resnet18"
    fields = {"dataset": "synthetic", "category": "plates", "image_size": (256, 96), "memory_size": 256}
    return preset("memory", backbone=backbone, **fields)
