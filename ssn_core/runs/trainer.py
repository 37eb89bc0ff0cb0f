"""The training loop: cached features in, trained heads out, one checkpoint between epochs."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ssn_core.fast.masked import Masked
from ssn_core.fast.training_forward import FastForward
from ssn_core.models.detectors import Detector, GapCamNet, MilNet, SimpleNet
from ssn_core.models.losses import focal, map_loss, truncated_l1
from ssn_core.models.names import FIXED_NOISES
from ssn_core.models.noise import masked_area, perlin_masks
from ssn_core.runs.config import RunConfig
from ssn_core.runs.features import Features, single_precision
from ssn_core.runs.training_set import RealDefects, TrainingSet, real_defects

BOUND_DEVIATIONS = 6.0  # how far beyond the mean a batch's masked area is provided for, see Trainer._bound
HEAD_DECAY, ADAPTOR_DECAY = 1e-5, 1e-2  # the adaptor's is AdamW's default, as in the published training
DECAY_AT, DECAY = (0.8, 0.9), 0.4
CLIP_NORM = 1.0


class NonFiniteLoss(RuntimeError):
    """The loss became infinite or NaN; the last checkpoint is from before."""


class Trainer:
    """One run's training. :meth:`epoch` trains one epoch and returns its history row; the state is in
    :meth:`state_dict`, and an epoch's randomness comes from (seed, epoch) alone, so a resumed run repeats the
    uninterrupted one exactly.

    A step lives on the device: features, labels, masks, noise and the random state lie there, no shape depends on a
    value there, and nothing in it waits for the device.
    """

    generator: nn.Module | None = None  # of :class:`ssn_core.runs.learned_noise.LearnedNoiseTrainer`

    def __init__(
        self,
        config: RunConfig,
        model: Detector,
        features: Features,
        training: TrainingSet,
        device: torch.device,
    ) -> None:
        self.config, self.model, self.features, self.device = config, model.train(), features, device
        self.training, self.labels = training, training.labels.to(device)
        self.forward = FastForward(model, *features.sizes)
        self.defects: RealDefects | None = None
        if config.needs_training_masks:
            self.defects = real_defects(training, config.image_size, self.forward.size).to(device)
        self.seen, self.step, self.epochs_done = torch.zeros(training.normal), 0, 0
        self.batch = 0  # of the epoch under way
        self.feature_std = features.standard_deviation()
        self.unit = self.feature_std if config.noise_unit == "feature_std" else 1.0
        self.sigma = config.noise_std * self.unit
        heads = [p for name, p in model.named_parameters() if not name.startswith(("trunk", "adaptor"))]
        self.parameters = [*model.adaptor.parameters(), *heads]
        groups = [
            {"params": list(model.adaptor.parameters()), "lr": config.adaptor_lr, "weight_decay": ADAPTOR_DECAY},
            {"params": heads, "lr": config.head_lr, "weight_decay": HEAD_DECAY},
        ]
        fused = device.type == "cuda"  # one kernel a step, which keeps its counters on the device
        self.optimizers = {"model": torch.optim.AdamW(groups, fused=fused)}
        self.area: tuple[float, float] | None = None
        if device.type != "cpu" and not isinstance(model, (MilNet, SimpleNet)):
            self.area = masked_area(self.forward.size, config.perlin_threshold, self._random_state(0))

    def epoch(self) -> dict[str, Any]:
        """Train one epoch; raises :class:`NonFiniteLoss` and then leaves nothing worth saving."""
        seed = 1_000_003 * self.config.seed + self.epochs_done
        rng = torch.Generator().manual_seed(seed)
        self._set_learning_rates()
        sums: dict[str, list[Tensor]] = {}
        order = self.training.epoch_order(self.seen, rng)
        if self.device.type != "cpu":  # there masks and noise are drawn where they are used; here one stream does both
            rng = self._random_state(seed)
        self.batch = 0
        for index, layers in self.features.batches(order, self.config.batch_size, self.device):
            for name, value in self.train_batch(index, layers, rng).items():
                sums.setdefault(name, []).append(value)
        means = {name: float(torch.stack(values).mean()) for name, values in sums.items()}
        self.epochs_done += 1
        if not all(math.isfinite(v) for v in means.values()):
            raise NonFiniteLoss(f"{means} in epoch {self.epochs_done}")
        learned = (value for part in self._learned().values() for value in part.values())
        if not torch.stack([value.isfinite().all() for value in learned]).all():  # by its last step
            raise NonFiniteLoss(f"weights or batch statistics not finite after epoch {self.epochs_done}, {means}")
        return {"epoch": self.epochs_done, "step": self.step, **means}

    def _random_state(self, seed: int) -> torch.Generator:
        return torch.Generator(self.device).manual_seed(seed)

    def _learned(self) -> dict[str, dict[str, Tensor]]:
        """Everything that training changed."""
        generator = {} if self.generator is None else {"generator": self.generator.state_dict()}
        return {"model": trained_state(self.model)} | generator

    def _set_learning_rates(self) -> None:
        """x0.4 at 80 % and at 90 % of the epochs."""
        passed = sum(self.epochs_done >= int(part * self.config.epochs) for part in DECAY_AT)
        base = (self.config.adaptor_lr, self.config.head_lr)
        for group, rate in zip(self.optimizers["model"].param_groups, base, strict=True):
            group["lr"] = rate * DECAY**passed

    @single_precision
    def train_batch(self, index: Tensor, layers: tuple[Tensor, ...], rng: torch.Generator) -> dict[str, Tensor]:
        """One step on the images ``index`` (B,) with the features ``layers``; -> losses and the noise's RMS."""
        synthetic = self._synthetic_masks(index, rng)
        masked = Masked.of(synthetic, self._bound(len(synthetic)))
        targets = self._targets(index, masked.masks)
        self.step, self.batch = self.step + 1, self.batch + 1
        losses, noise = self._update(layers, masked, targets, rng)
        rms = masked.mean(noise.detach().square().mean(1)).sqrt()
        return {**{k: v.detach() for k, v in losses.items()}, "noise_rms": rms}

    def _bound(self, copies: int) -> int | None:
        """How many masked positions a step provides for; None: as many as there are, which a CPU knows at once.

        Half of SimpleNet's doubled batch is masked. Perlin masks cover what chance gives: six standard deviations
        beyond the mean are left out about once in 10^9 batches, and then the batch's last masks lose what is beyond.
        """
        if self.device.type == "cpu":
            return None
        if isinstance(self.model, MilNet):
            return 0
        everything = copies * self.forward.size[0] * self.forward.size[1]
        if self.area is None:
            return everything // 2
        mean, deviation = self.area
        return min(everything, math.ceil(copies * mean + BOUND_DEVIATIONS * copies**0.5 * deviation))

    def _synthetic_masks(self, index: Tensor, rng: torch.Generator) -> Tensor:
        """(2B, h, w) bool."""
        size, count = self.forward.size, len(index)
        if isinstance(self.model, SimpleNet):  # normal copy, noisy copy
            noisy = torch.arange(2 * count, device=self.device).ge(count)
            return noisy[:, None, None].expand(-1, *size).contiguous()
        if isinstance(self.model, MilNet):  # two equal copies, which share every row
            return torch.zeros(2 * count, *size, dtype=torch.bool, device=self.device)
        masks = perlin_masks(2 * count, size, self.config.perlin_threshold, rng)
        if self.defects is not None and self.config.noise_region == "outside_defects":
            masks &= ~self.defects.masks[index].repeat(2, 1, 1)
        return masks

    def _targets(self, index: Tensor, synthetic: Tensor) -> dict[str, Tensor | None]:
        """Map targets (2B, h, w) and their weights or None, image targets (2B,), and which images have a known map,
        (2B, 1, 1) or None where all have."""
        defective = self.labels[index].repeat(2)
        maps, weights, known = synthetic, None, None
        if self.config.supervision == "full":
            assert self.defects is not None
            maps = synthetic | self.defects.masks[index].repeat(2, 1, 1)
            weights = self.defects.weights[index].repeat(2, 1, 1)
            if self.config.masks is not None:
                known = self.defects.known[index].repeat(2)[:, None, None]
        elif self.config.supervision == "weak":
            known = ~defective[:, None, None]
        return {"map": maps, "weights": weights, "image": synthetic.flatten(1).any(1) | defective, "known": known}

    def _update(
        self, layers: tuple[Tensor, ...], masked: Masked, targets: dict[str, Any], rng: torch.Generator
    ) -> tuple[dict[str, Tensor], Tensor]:
        """What one batch changes; -> losses and the noise (N, C) at the masked positions."""
        noise, adapted = self._fixed_noise(layers, masked, rng)
        losses = self._losses(layers, masked, noise, targets, adapted)
        self._step_model(losses["loss"])
        return losses, noise

    def _fixed_noise(
        self, layers: tuple[Tensor, ...], masked: Masked, rng: torch.Generator
    ) -> tuple[Tensor, Tensor | None]:
        sampler, arguments = FIXED_NOISES[self.config.noise]
        noise = torch.empty(len(masked.where), self.model.channels, device=rng.device)
        getattr(noise, sampler)(*arguments, generator=rng)
        if self.config.noise_std_high is not None:
            draws = torch.rand(len(masked.masks) + 1, generator=rng, device=rng.device)  # the last for rows nowhere
            louder = (self.config.noise_std_high / self.config.noise_std) ** draws
            noise *= louder[masked.where // masked.masks[0].numel(), None]
        if self.config.noise_unit != "adapted_std":
            return noise * self.sigma, None
        adapted = self.forward.adapted(*layers)
        return noise * (self.config.noise_std * adapted.detach().std()), adapted

    def _losses(
        self,
        layers: tuple[Tensor, ...],
        masked: Masked,
        noise: Tensor,
        targets: dict[str, Any],
        adapted: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Total, map and image loss; methods without a head have no loss for it, and SimpleNet's map no focal part."""
        maps, scores = self.forward(*layers, masked, noise, adapted)
        zero = torch.zeros((), device=self.device)
        on_map = on_image = zero
        if not isinstance(self.model, (GapCamNet, MilNet)):
            measure = truncated_l1 if isinstance(self.model, SimpleNet) else map_loss
            on_map = measure(maps, targets["map"], targets["weights"], targets["known"])
        if not isinstance(self.model, SimpleNet):
            on_image = focal(scores, targets["image"])
        return {"loss": on_map + on_image, "loss_map": on_map, "loss_image": on_image}

    def _step_model(self, loss: Tensor) -> None:
        optimizer = self.optimizers["model"]
        optimizer.zero_grad(set_to_none=True)
        loss.backward(inputs=self.parameters)
        if self.config.supervision != "unsupervised":
            nn.utils.clip_grad_norm_(self.parameters, CLIP_NORM)
        optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next epoch depends on."""
        optimizers = {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()}
        counters = {"seen": self.seen, "step": self.step, "epochs_done": self.epochs_done}
        return {**counters, **self._learned(), "optimizers": optimizers}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of :meth:`state_dict`."""
        self.seen, self.step, self.epochs_done = state["seen"].cpu(), state["step"], state["epochs_done"]
        self.model.load_state_dict(state["model"], strict=False)
        if self.generator is not None:
            self.generator.load_state_dict(state["generator"])
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])


def trained_state(model: Detector) -> dict[str, Tensor]:
    """Weights and statistics of everything but the frozen trunk."""
    return {name: value for name, value in model.state_dict().items() if not name.startswith("trunk.")}
