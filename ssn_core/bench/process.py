"""The process of one form: ``python -m ssn_core.bench.process FORM`` makes it and waits for its turns."""

from __future__ import annotations

import json
import math
import os
import platform
import re
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from ssn_core.bench.forms import KINDS, Call, Facts
from ssn_core.bench.plan import Form, Point
from ssn_core.models.product import LINEAR

_COUNTED = ("latency_batch1", "training_step_batch8")  # beside these stand operations and bytes
_COUNTED_STEPS = 8  # of the fast form, whose operations go with the area that each step's masks happen to have
_TURN_SECONDS = 0.3  # a turn repeats a shorter call until it has lasted so long


class _Traffic(TorchDispatchMode):
    """Bytes read and written when every operation reads its inputs from memory and writes its outputs there."""

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        out = func(*args, **(kwargs or {}))
        aliases = [value.alias_info for value in func._schema.returns]
        if not any(alias is not None and not alias.is_write for alias in aliases):  # no view
            tensors = [x for x in tree_leaves((args, kwargs, out)) if isinstance(x, Tensor)]
            self.total += sum(min(x.nbytes, x.untyped_storage().nbytes()) for x in tensors)  # an expanded one is small
        return out


def count(call: Call, times: int = 1) -> tuple[float, float]:
    """Run ``call``, backward passes included: operations (two for every multiply-add of a product or convolution,
    nothing else) and bytes moved, means over ``times``. Not under inference mode, which hides the operations."""
    aten, product = torch.ops.aten, lambda _, a, b, **kwargs: 2 * math.prod(a) * b[-1]
    left_out = {aten.addmm_: product, aten.baddbmm_: product, aten.mv: lambda a, b, **kwargs: 2 * math.prod(a)}
    left_out[LINEAR] = lambda a, b, *_, **kwargs: 2 * math.prod(a) * b[0]
    with FlopCounterMode(display=False, custom_mapping=left_out) as flops, _Traffic() as traffic:
        for _ in range(times):
            call()
    return flops.get_total_flops() / times, traffic.total / times


def serve(form: Form) -> None:
    """Read the names of :class:`Worker`'s methods with their arguments, one JSON list a line, and answer each with one
    line of JSON."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print is no answer
    worker = Worker(form)
    for line in sys.stdin:
        method, *arguments = json.loads(line)
        print(json.dumps(getattr(worker, method)(*arguments)), file=answers)


class Worker:
    """A form at one point after the other."""

    def __init__(self, form: Form) -> None:
        self.form, self.cuda = form, form.device.startswith("cuda")
        self.before, self.facts = _memory("VmRSS"), {}
        self.prepare = KINDS[form.kind](form, self.facts)

    def begin(self, *point: Any) -> str:
        """Prepare a point and warm up; -> where it runs."""
        self.point = Point(*point)
        self.call = self.prepare(self.point)
        if self.cuda:
            torch.cuda.empty_cache()  # of the point before
        self.call()
        self.repeats = max(1, int(_TURN_SECONDS / _seconds(self.call, 1)))
        processor = f"{platform.machine()}, {torch.get_num_threads()} threads"
        runtime = "openvino" if self.form.variant.endswith("openvino") else "onnxruntime"
        package = runtime if self.form.kind == "runtime" else "torch"
        place = torch.cuda.get_device_name() if self.cuda else processor
        return f"{place}, {package} {version(package).split('+')[0]}"

    def turn(self) -> Facts:
        """Time and, where it can be told, peak memory."""
        measurement, told = self.point.measurement, _reset_peak(self.cuda)
        answer = {measurement: timed(self.point, _seconds(self.call, self.repeats))}
        if told and self.form.kind not in ("machine", "runtime"):  # a file's export takes more than its forward
            peak = _gpu_peak(self.form) if self.cuda else _memory("VmHWM") - self.before
            answer[f"memory_{measurement}"] = (peak / 1e6, "MB")
        return answer

    def count(self) -> Facts:
        """What no clock measures, once for a form: see :data:`_COUNTED`."""
        if self.point.measurement == "precision":
            return {name: fact for name, fact in self.facts.items() if name == "error"}
        if self.point.measurement not in _COUNTED:
            return {}
        suffix = "_training" if self.form.kind == "training" else ""
        operations, traffic = count(self.call, _COUNTED_STEPS if self.form.variant == "fast" else 1)
        answer = self.facts | {f"operations{suffix}": (operations / self.point.batch / 1e9, "GFLOP/image")}
        return answer | {f"traffic{suffix}": (traffic / self.point.batch / 1e6, "MB/image")}


def timed(point: Point, seconds: float) -> tuple[float, str]:
    """What a call that took so long says, and its unit."""
    height, width = point.size
    if "throughput" in point.measurement:
        return point.batch / seconds, "images/s"
    if point.measurement.startswith("machine_product"):
        return 2 * height**3 / 1e9 / seconds, "GFLOP/s"
    if point.measurement == "machine_copy":
        return 2 * 4 * height * width / 1e9 / seconds, "GB/s"  # float32, read and written
    return (seconds, "s") if point.images else (1e3 * seconds / point.batch, "ms/image")


def _seconds(call: Call, repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / repeats


def _reset_peak(cuda: bool) -> bool:
    """Let the high-water mark of memory fall to what is in use; False where the system does not allow it."""
    if cuda:
        torch.cuda.reset_peak_memory_stats()
        return True
    try:
        return Path("/proc/self/clear_refs").write_text("5") > 0
    except OSError:
        return False


def _gpu_peak(form: Form) -> int:
    """What tensors took, not what the allocator reserved (erratum 9); what a graph holds is reserved once."""
    return torch.cuda.memory_reserved() if form.variant.startswith("graph") else torch.cuda.max_memory_allocated()


def _memory(key: str) -> int:
    """Bytes of this process by Linux's account: the peak is its own growth since before the model was made."""
    status = Path("/proc/self/status")
    found = re.search(rf"{key}:\s+(\d+)", status.read_text()) if status.is_file() else None
    return 1024 * int(found[1]) if found else 0


if __name__ == "__main__":
    serve(Form(*json.loads(sys.argv[1])))
