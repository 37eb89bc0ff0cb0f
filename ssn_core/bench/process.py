"""The process of one form of the benchmark: ``python -m ssn_core.bench.process`` waits for its turns."""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ssn_core.bench.forms import Form, Inference, Machine, Metrics, Point, Training
from ssn_core.bench.operations import count

_TURN_SECONDS = 0.3  # a turn repeats a shorter call until it has lasted so long


def serve() -> None:
    """The process of one form: reads commands, one JSON object a line, and answers each with one."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print is no answer
    form = Form(**json.loads(sys.stdin.readline()))
    before = _memory("VmRSS")
    subject = make(form)
    gc.collect()
    call: Callable[[], Any] = lambda: None  # noqa: E731
    point, repeats = Point(1, (0, 0)), 1
    for line in sys.stdin:
        command = json.loads(line)
        answer: dict[str, Any] = {}
        if "point" in command:
            point = Point(**{**command["point"], "size": tuple(command["point"]["size"])})
            call = subject.prepare(point)
            call()  # the warm-up
            repeats = max(1, int(_TURN_SECONDS / _seconds(call, 1)))
        elif "turn" in command:
            told = _reset_peak(form.device)
            answer |= {"seconds": _seconds(call, repeats)}
            answer |= {"peak": max(_peak(form.device, before), getattr(subject, "held", 0)) if told else None}
        else:
            work = count(getattr(subject, "counted", call))
            answer |= subject.facts | {"flops": work.flops / point.batch, "traffic": work.traffic / point.batch}
        print(json.dumps(answer), file=answers)


def make(form: Form) -> Any:
    """The subject of a form; peers' are made from a package that only their own environment has."""
    if form.variant == "anomalib":
        from ssn_core.bench import peers

        return peers.make(form)
    kinds = {"inference": Inference, "training": Training, "metrics": Metrics, "machine": Machine}
    return kinds[form.kind](form)


def _seconds(call: Callable[[], Any], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


def _reset_peak(device: str) -> bool:
    """Let the high-water mark of memory fall to what is in use; False where the system does not allow it."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
        return True
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _peak(device: str, before: int) -> float:
    """Bytes: on a CUDA device what tensors took at most, not what the allocator reserved (erratum 9); on a processor
    the process's own growth since before the model was made."""
    if device.startswith("cuda"):
        return float(torch.cuda.max_memory_allocated())
    return float(_memory("VmHWM") - before)


def _memory(key: str) -> int:
    """Bytes by Linux's account of the process; 0 on other systems, where no peak can be reset either."""
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="ascii").splitlines() if status.is_file() else []
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(key)), 0)


if __name__ == "__main__":
    serve()
