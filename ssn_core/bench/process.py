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

from ssn_core.bench.forms import KINDS, Call
from ssn_core.bench.plan import Form, Point

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
    with FlopCounterMode(display=False, custom_mapping=left_out) as flops, _Traffic() as traffic:
        for _ in range(times):
            call()
    return flops.get_total_flops() / times, traffic.total / times


def serve(form: Form) -> None:
    """Read commands, one JSON object a line, and answer each with one: measurement -> (value, unit)."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print is no answer
    before, facts, cuda = _memory("VmRSS"), {}, form.device.startswith("cuda")
    prepare = KINDS[form.kind](form, facts)
    place = torch.cuda.get_device_name() if cuda else f"{platform.machine()}, {torch.get_num_threads()} threads"
    for line in sys.stdin:
        command, answer = json.loads(line), {}
        if "point" in command:
            point = Point(*command["point"])
            call = prepare(point)
            if cuda:
                torch.cuda.empty_cache()  # of the point before
            call()  # the warm-up
            repeats = max(1, int(_TURN_SECONDS / _seconds(call, 1)))
            package = "openvino" if form.variant.endswith("openvino") else "onnxruntime"
            package = package if form.kind == "runtime" else "torch"
            answer = {"where": f"{place}, {package} {version(package).split('+')[0]}"}
        elif "turn" in command:
            told = _reset_peak(cuda)
            answer[point.measurement] = timed(point, _seconds(call, repeats))
            if told and form.kind not in ("machine", "runtime"):  # a file's export takes more than its forward
                peak = _gpu_peak(form) if cuda else _memory("VmHWM") - before
                answer[f"memory_{point.measurement}"] = (peak / 1e6, "MB")
        elif point.measurement == "precision":
            answer = {name: fact for name, fact in facts.items() if name == "error"}
        elif command["count"]:
            suffix = "_training" if form.kind == "training" else ""
            operations, traffic = count(call, _COUNTED_STEPS if form.variant == "fast" else 1)
            answer = facts | {f"operations{suffix}": (operations / point.batch / 1e9, "GFLOP/image")}
            answer[f"traffic{suffix}"] = (traffic / point.batch / 1e6, "MB/image")
        print(json.dumps(answer), file=answers)


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
