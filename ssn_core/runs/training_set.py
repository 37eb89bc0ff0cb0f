"""What a run trains on: the images of an epoch, their labels, and the masks of real defects."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from ssn_core.data.datasets import Dataset, Sample
from ssn_core.data.images import read_mask, resize_nearest
from ssn_core.errors import InputError
from ssn_core.runs.config import RunConfig
from ssn_core.runs.features import FLIPS, ROTATIONS

DILATION = 7  # pixels, square: annotations are drawn tight and the features are coarse
REGION_WEIGHT, REGION_POWER = 3.0, 2


@dataclass(frozen=True)
class TrainingSet:
    """Entries (sample, version), ``normal`` normal ones first; the normal images held out for selection; and the
    defective images whose masks are read."""

    entries: list[tuple[Sample, int]]
    normal: int
    held_out: list[Sample]
    outlined: list[Sample] = field(default_factory=list)

    @property
    def labels(self) -> Tensor:
        """(n,) bool: defective."""
        return torch.arange(len(self.entries)) >= self.normal

    @classmethod
    def of(cls, config: RunConfig, dataset: Dataset) -> TrainingSet:
        """Choose the entries of a run; raises :class:`InputError` when the data cannot serve its supervision."""
        normal = [s for s in dataset.train if not s.label]
        defective = [s for s in dataset.train if s.label and config.supervision != "unsupervised"]
        where = dataset.root
        if config.supervision != "unsupervised" and not defective:
            raise InputError(
                f"supervision={config.supervision!r} needs defective training images and {where} has none; "
                "use supervision='unsupervised' or a data set in KolektorSDD2's layout"
            )
        wanted = _masks_wanted(config, defective, where)
        held = int(len(normal) * config.validation_fraction)
        if config.validation_fraction and not held:
            raise InputError(f"validation_fraction={config.validation_fraction} of {len(normal)} images holds none out")
        rng = np.random.default_rng(config.seed)
        order = rng.permutation(len(normal))
        held_out = [normal[i] for i in sorted(order[:held])]
        kept = [normal[i] for i in sorted(order[held:])]
        _refuse_too_few(kept, defective, config, where)
        known = [s for s in defective if s.mask is not None]
        outlined = [known[i] for i in rng.permutation(len(known))[:wanted]]  # more of them contain the fewer
        normal = [(s, version) for s in kept for version in (ROTATIONS if config.rotations else (0,))]
        entries = normal + [(s, flip) for s in defective for flip in range(config.flips)]
        return cls(entries, len(normal), held_out, outlined)

    def epoch_order(self, seen: Tensor, generator: torch.Generator) -> Tensor:
        """Indices of one epoch in random order; ``seen`` (normal,) counts uses and is updated.

        Unsupervised: every image. Supervised: every defective entry and as many normal images, those seen least
        first (JIMS 2025, section 4.2), so that the classes are balanced and every normal image has its turn.
        """
        defective = torch.arange(self.normal, len(self.entries))
        chosen = torch.arange(self.normal)
        if len(defective):
            keys = seen + torch.rand(self.normal, generator=generator)
            chosen = keys.argsort()[: len(defective)]
        seen[chosen] += 1
        both = torch.cat([chosen, defective])
        return both[torch.randperm(len(both), generator=generator)]


def _masks_wanted(config: RunConfig, defective: list[Sample], where: Path) -> int:
    """How many training masks a run reads; :class:`InputError` when there are fewer."""
    if not config.needs_training_masks:
        return 0
    bare = [s.name for s in defective if s.mask is None]
    wanted, there = config.masks or len(defective), len(defective) - len(bare)
    if wanted > there:
        raise InputError(
            f"supervision={config.supervision!r} with noise_region={config.noise_region!r} reads {wanted} training "
            f"masks, and {where} has {there} for its {len(defective)} defective training images"
            f"{f' (none for {bare[0]})' if bare else ''}; add the masks, set masks to what there is, or use "
            "supervision='weak' with noise_region='anywhere'"
        )
    return wanted


def _refuse_too_few(normal: list[Sample], defective: list[Sample], config: RunConfig, where: Path) -> None:
    if len(normal) < 2:
        raise InputError(f"{where} has {len(normal)} good images to train on; add some, a hundred is a start")
    if len(defective) * config.flips > len(normal):
        most = len(normal) // len(defective)
        way_out = f"choose flips={most} or fewer" if most else f"add normal images, {len(defective)} at least"
        raise InputError(
            f"flips={config.flips}: {len(defective)} defective images in {config.flips} versions need as many "
            f"normal images, and {where} has {len(normal)} to train on; {way_out}"
        )


@dataclass(frozen=True)
class RealDefects:
    """Masks (n, h, w) bool of real defects at feature size, the map loss's weights (n, h, w), and whose map is known,
    (n,) bool: normal images' and those of defective ones whose mask was read."""

    masks: Tensor
    weights: Tensor
    known: Tensor

    def to(self, device: torch.device) -> RealDefects:
        """The same on a device."""
        return RealDefects(self.masks.to(device), self.weights.to(device), self.known.to(device))


def real_defects(training: TrainingSet, image_size: tuple[int, int], size: tuple[int, int]) -> RealDefects:
    """Read, dilate and shrink the training masks, in the published order: dilated and weighted at the file's own size,
    nearest to the image size, then sampled bilinearly at the features' positions (corners aligned).

    Weight inside a region: ``3 (d / d_max)^2`` of its distance transform (JIMS 2025, section 3.4), 1 elsewhere, so
    that the uncertain border of an annotation counts little.
    """
    masks = torch.zeros(len(training.entries), *size, dtype=torch.bool)
    weights = torch.ones(len(training.entries), *size)
    known = torch.tensor([not s.label or s in training.outlined for s, _ in training.entries])
    for i in (known & training.labels).nonzero().flatten().tolist():
        sample, flip = training.entries[i]
        mask = ndimage.binary_dilation(read_mask(sample.mask), np.ones((DILATION, DILATION)))
        full = torch.from_numpy(np.stack([mask, region_weights(mask)])).flip(FLIPS[flip]).numpy()
        both = torch.from_numpy(np.stack([resize_nearest(values, image_size) for values in full])).float()
        small, weights[i] = F.interpolate(both[None], size, mode="bilinear", align_corners=True)[0]
        masks[i] = small >= 0.5
    return RealDefects(masks, weights, known)


def region_weights(mask: np.ndarray) -> np.ndarray:
    """``3 (d / d_max)^2`` per connected region of a mask (H, W) bool, 1 outside; float32."""
    regions, count = ndimage.label(mask, np.ones((3, 3)))
    distance = ndimage.distance_transform_edt(mask)
    largest = ndimage.maximum(distance, regions, np.arange(count + 1))
    peak = np.concatenate([[1.0], np.atleast_1d(largest)[1:]])[regions]
    return np.where(mask, REGION_WEIGHT * (distance / peak) ** REGION_POWER, 1.0).astype(np.float32)
