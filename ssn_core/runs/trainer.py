"""The training loop: cached features in, trained heads out, one checkpoint between epochs."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ssn_core.fast.masked import Masked
from ssn_core.fast.training_forward import FastForward
from ssn_core.models.detectors import Detector, GapCamNet, MilNet, SimpleNet
from ssn_core.models.losses import focal, map_loss, truncated_l1
from ssn_core.models.names import FIXED_NOISES
from ssn_core.models.noise import LATENT_CHANNELS, NoiseGenerator, masked_area, perlin_masks
from ssn_core.runs.config import RunConfig
from ssn_core.runs.features import Features, single_precision
from ssn_core.runs.training_set import RealDefects, TrainingSet

BOUND_DEVIATIONS = 6.0  # how far beyond the mean a batch's masked area is provided for, see Trainer._bound
HEAD_DECAY, ADAPTOR_DECAY = 1e-5, 1e-2  # the adaptor's is AdamW's default, as in the published training
DECAY_AT, DECAY = (0.8, 0.9), 0.4
CLIP_NORM = 1.0
MAGNITUDE_WEIGHT = 10.0
#: one generator step closes a cycle of this many batches. Adversarial: v1 takes turns, v2 has three discriminator steps
#: to one, counted over the whole training. As published: counted within an epoch.
GENERATOR_EVERY = {
    "adversarial": {"learned_v1": 2, "learned_v2": 4},
    "as_published": {"learned_v1": 1, "learned_v2": 4},
}


class NonFiniteLoss(RuntimeError):
    """The loss became infinite or NaN; the last checkpoint is from before."""


class Trainer:
    """One run's training. :meth:`epoch` trains one epoch and returns its history row; the state is in
    :meth:`state_dict`, and an epoch's randomness comes from (seed, epoch) alone, so a resumed run repeats the
    uninterrupted one exactly.

    A step lives on the device: features, labels, masks, noise and the random state lie there, no shape depends on a
    value there, and nothing in it waits for the device.
    """

    def __init__(
        self,
        config: RunConfig,
        model: Detector,
        features: Features,
        training: TrainingSet,
        defects: RealDefects | None,
        device: torch.device,
    ) -> None:
        self.config, self.model, self.features, self.device = config, model.train(), features, device
        self.training, self.labels = training, training.labels.to(device)
        self.defects = None if defects is None else defects.to(device)
        self.forward = FastForward(model, *features.sizes)
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
        self.generator: NoiseGenerator | None = None
        if config.noise not in FIXED_NOISES:
            bound = None if config.beta is None else config.beta * self.unit
            self.generator = NoiseGenerator(model.channels, bound).to(device)
            self.optimizers["generator"] = torch.optim.AdamW(self.generator.parameters(), lr=1e-4, fused=fused)
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
        if not torch.stack([value.isfinite().all() for value in self._learned_values()]).all():  # by its last step
            raise NonFiniteLoss(f"weights or batch statistics not finite after epoch {self.epochs_done}, {means}")
        return {"epoch": self.epochs_done, "step": self.step, **means}

    def _random_state(self, seed: int) -> torch.Generator:
        return torch.Generator(self.device).manual_seed(seed)

    def _learned_values(self) -> list[Tensor]:
        """Everything that training changed."""
        generator = [] if self.generator is None else list(self.generator.parameters())
        return [*trained_state(self.model).values(), *generator]

    def _set_learning_rates(self) -> None:
        """x0.4 at 80 % and at 90 % of the epochs; the published schedule never touches the generator's rate."""
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
        if self.generator is None:
            noise, adapted = self._fixed_noise(layers, masked, rng)
            losses = self._losses(layers, masked, noise, targets, adapted)
            self._step_model(losses["loss"])
        elif self.config.noise_rule == "adversarial":
            losses, noise = self._adversarial(layers, masked, targets, rng)
        else:
            losses, noise = self._as_published(layers, masked, targets, rng)
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

    def _step_model(self, loss: Tensor, **kwargs: Any) -> None:
        optimizer = self.optimizers["model"]
        optimizer.zero_grad(set_to_none=True)
        loss.backward(inputs=self.parameters, **kwargs)
        if self.config.supervision != "unsupervised":
            nn.utils.clip_grad_norm_(self.parameters, CLIP_NORM)
        optimizer.step()

    def _generator_turn(self, batches: int) -> bool:
        """Whether the batch that makes ``batches`` is the generator's."""
        return batches % GENERATOR_EVERY[self.config.noise_rule][self.config.noise] == 0

    def _latent(self, count: int, rng: torch.Generator) -> Tensor | None:
        """z (count, 32) ~ N(0, 1) for v2; v1 knows none."""
        if not self.generator.latent:
            return None
        return torch.randn(count, LATENT_CHANNELS, generator=rng, device=rng.device)

    def _noise_from_generator(self, layers: tuple[Tensor, ...], masked: Masked, rng: torch.Generator) -> Tensor:
        """Learned noise (N, C) at the masked positions; the generator reads the adapted features as data."""
        with torch.no_grad(), _frozen_statistics(self.model):
            rows = self.forward.adapted(*layers).flatten(0, 2).index_select(0, masked.source)
        return self.generator(rows, self._latent(len(rows), rng))

    def _adversarial(
        self, layers: tuple[Tensor, ...], masked: Masked, targets: dict[str, Any], rng: torch.Generator
    ) -> tuple[dict[str, Tensor], Tensor]:
        """One batch of adversarial training: either side steps alone, with the other one frozen."""
        noise = self._noise_from_generator(layers, masked, rng)
        if not self._generator_turn(self.step):
            losses = self._losses(layers, masked, noise.detach(), targets)
            self._step_model(losses["loss"])
            return losses, noise
        with _frozen_statistics(self.model):
            losses = self._losses(layers, masked, noise, targets)
        losses["loss_generator"] = self._generator_loss(losses["loss"], noise, masked)
        optimizer = self.optimizers["generator"]
        optimizer.zero_grad(set_to_none=True)
        losses["loss_generator"].backward(inputs=list(self.generator.parameters()))
        optimizer.step()
        return losses, noise

    def _as_published(
        self, layers: tuple[Tensor, ...], masked: Masked, targets: dict[str, Any], rng: torch.Generator
    ) -> tuple[dict[str, Tensor], Tensor]:
        """One batch of the published update (erratum 1). The generator makes noise for every position, the same for
        both copies, from adapted features that keep their gradient: so the adaptor also learns through the noise.
        """
        adapted = self.forward.adapted(*layers)
        rows = adapted.flatten(0, 2)
        latent, turn = self._latent(len(rows), rng), self._generator_turn(self.batch)
        everywhere = turn and latent is not None  # v2's magnitude is the mean over all positions, masked or not
        if not everywhere:
            rows = rows.index_select(0, masked.source)
            latent = None if latent is None else latent.index_select(0, masked.source)
        made = self.generator(rows, latent)
        noise = made.index_select(0, masked.source) if everywhere else made
        losses = self._losses(layers, masked, noise, targets, adapted)
        if turn:
            losses["loss_generator"] = self._generator_loss(losses["loss"], made)
            self._published_step(losses["loss"], losses["loss_generator"])
        else:
            self._step_model(losses["loss"])
        return losses, noise

    def _generator_loss(self, loss: Tensor, noise: Tensor, masked: Masked | None = None) -> Tensor:
        """v1: ``-L``. v2: ``-L + 10 mean(eps^2)``, the mean over the masked positions' noise, or over all of it where
        none are given, in the noise's unit."""
        if self.config.noise == "learned_v1":
            return -loss
        squares = (noise / self.unit).square().mean(1)
        return MAGNITUDE_WEIGHT * (squares.mean() if masked is None else masked.mean(squares)) - loss

    def _published_step(self, loss: Tensor, generator_loss: Tensor) -> None:
        """What two backward passes leave when hardly anything is cleared between them, and then both optimisers step.

        v1 clears the generator's gradients: it keeps -grad L. v2 clears nothing: the generator keeps
        10 grad(mean eps^2), and so does the adaptor, whose features it reads. Either way grad L - grad L = 0 is left
        for everything else, and the optimiser moves it by momentum and weight decay alone.
        """
        for optimizer in self.optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        loss.backward(retain_graph=True)
        if self.config.noise == "learned_v1":
            self.optimizers["generator"].zero_grad(set_to_none=True)
        generator_loss.backward()
        for optimizer in self.optimizers.values():
            optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next epoch depends on."""
        state = {
            "seen": self.seen,
            "step": self.step,
            "epochs_done": self.epochs_done,
            "model": trained_state(self.model),
        }
        state["optimizers"] = {name: opt.state_dict() for name, opt in self.optimizers.items()}
        state["generator"] = None if self.generator is None else self.generator.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of :meth:`state_dict`."""
        self.seen, self.step, self.epochs_done = state["seen"].cpu(), state["step"], state["epochs_done"]
        self.model.load_state_dict(state["model"], strict=False)
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        if self.generator is not None:
            self.generator.load_state_dict(state["generator"])


def trained_state(model: Detector) -> dict[str, Tensor]:
    """Weights and statistics of everything but the frozen trunk."""
    return {name: value for name, value in model.state_dict().items() if not name.startswith("trunk.")}


@contextlib.contextmanager
def _frozen_statistics(model: nn.Module) -> Iterator[None]:
    """Batch statistics normalise but leave the running ones alone: what the generator reads or learns from is not a
    step of the model."""
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    kept = [(norm.momentum, norm.num_batches_tracked.clone()) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, kept, strict=True):
            norm.momentum = momentum
            norm.num_batches_tracked.copy_(count)
