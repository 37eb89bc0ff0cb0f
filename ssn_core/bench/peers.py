"""anomalib's forms of the same computations, for ``make bench PEERS=1``, from an environment of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ssn_core.bench.forms import Form, Point, draw_maps


def make(form: Form) -> Any:
    """The subject of a form."""
    return {"inference": Inference, "training": Training, "metrics": Metrics}[form.kind](form)


def _model(form: Form) -> torch.nn.Module:
    """anomalib's SuperSimpleNet with random weights."""
    import timm
    from anomalib.models.image.supersimplenet.torch_model import SupersimplenetModel

    create = timm.create_model
    timm.create_model = lambda name, pretrained=False, **options: create(name, pretrained=False, **options)
    try:
        return SupersimplenetModel(backbone=f"{form.backbone}.tv_in1k").to(form.device)
    finally:
        timm.create_model = create


class Inference:
    """Its forward in eval mode, to the same image size."""

    def __init__(self, form: Form) -> None:
        self.device, self.model = form.device, _model(form).eval()
        self.dtype = torch.float16 if form.device.startswith("cuda") else torch.float32
        self.model.to(self.dtype)
        self.facts = {"parameters": sum(p.numel() for p in self.model.parameters())}

    def prepare(self, point: Point) -> Callable[[], Any]:
        images = torch.randn(point.batch, 3, *point.size)

        def forward() -> None:
            out = self.model(images.to(self.device, self.dtype))
            out.anomaly_map.cpu(), out.pred_score.cpu()

        self.counted = torch.no_grad()(forward)
        return torch.inference_mode()(forward)


class Training:
    """Its training step: forward with its own masks and noise, its loss, AdamW."""

    def __init__(self, form: Form) -> None:
        from anomalib.models.image.supersimplenet.loss import SSNLoss

        self.device, self.model, self.loss, self.facts = form.device, _model(form).train(), SSNLoss(), {}
        learned = [*self.model.adaptor.parameters(), *self.model.segdec.parameters()]
        self.optimizer = torch.optim.AdamW(learned, lr=1e-4)

    def prepare(self, point: Point) -> Callable[[], Any]:
        images = torch.randn(point.batch, 3, *point.size, device=self.device)
        masks, labels = torch.zeros(point.batch, *point.size), torch.zeros(point.batch)

        def step() -> None:
            maps, scores, targets, defective = self.model(images, masks.to(self.device), labels.to(self.device))
            self.optimizer.zero_grad(set_to_none=True)
            self.loss(pred_map=maps, pred_score=scores, target_mask=targets, target_label=defective).backward()
            self.optimizer.step()

        return step


class Metrics:
    """Its AUPRO, on maps scaled to [0, 1] as it expects."""

    def __init__(self, form: Form) -> None:
        from anomalib.metrics.aupro import _AUPRO

        self.metric, self.facts = _AUPRO(fpr_limit=0.3), {}

    def prepare(self, point: Point) -> Callable[[], Any]:
        _, maps, _, masks = draw_maps(point)
        maps, masks = torch.from_numpy(maps).sigmoid(), torch.from_numpy(masks).int()

        def call() -> None:
            self.metric.reset()
            self.metric.update(maps, masks)
            self.metric.compute()

        return call
