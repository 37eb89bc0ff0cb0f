"""Pictures and masks of every kind that people have: read to equal pixels, or refused by a line that names them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image
from trees import picture

from ssn_core.data import images
from ssn_core.data.datasets import open_dataset
from ssn_core.errors import InputError
from ssn_core.models.detectors import SuperSimpleNet
from ssn_core.models.trunk import IMAGENET_MEAN, IMAGENET_STD, to_tensor

QUARTER_TURN = 6  # EXIF: stored so that it has to be turned by 90 degrees to stand upright


def category(root: Path, suffix: str = ".png") -> Path:
    """A sound category without masks: 2 train, 1 good, 1 scratched."""
    for i, place in enumerate(("train/good/a", "train/good/b", "test/good/a", "test/scratch/a")):
        picture(root / f"{place}{suffix}", 90 + 20 * i)
    return root


@pytest.mark.parametrize("suffix", [".png", ".JPG", ".jpeg", ".BMP", ".tif", ".TIFF", ".webp"])
def test_suffixes(tmp_path: Path, suffix: str) -> None:
    path = picture(tmp_path / f"x{suffix}", 77)
    assert images.list_images(tmp_path) == [path]
    assert np.abs(images.read_image(path).astype(int) - 77).max() <= 1


def test_modes_become_rgb(tmp_path: Path) -> None:
    gray = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
    Image.fromarray(gray).save(tmp_path / "gray.png")
    Image.fromarray(gray.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    clear = np.zeros((3, 4, 4), np.uint8)
    clear[0, 0] = (10, 20, 30, 255)
    Image.fromarray(clear).save(tmp_path / "clear.png")
    for name in ("gray", "deep"):
        assert np.array_equal(images.read_image(tmp_path / f"{name}.png"), np.repeat(gray[:, :, None], 3, 2))
    shown = images.read_image(tmp_path / "clear.png")
    assert shown[0, 0].tolist() == [10, 20, 30] and (shown[1:] == 255).all()
    Image.fromarray(np.ones((3, 4), np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(InputError, match="float.tif: floating-point pixels"):
        images.read_image(tmp_path / "float.tif")


def test_mask_modes_and_nearest_resize(tmp_path: Path) -> None:
    values = np.zeros((4, 6), bool)
    values[1:3, 2:4] = True
    forms = {
        "bit": Image.fromarray(values),
        "one": Image.fromarray(values.astype(np.uint8)),  # 0 and 1, almost black to the eye
        "rgba": Image.fromarray(np.dstack([values * 255] * 3 + [np.full_like(values, 255, np.uint8)]).astype(np.uint8)),
    }
    palette = Image.fromarray(np.where(values, 0, 1).astype(np.uint8), "P")  # index 0 is the white entry
    palette.putpalette([255, 255, 255, 0, 0, 0])
    for name, form in {**forms, "palette": palette}.items():
        form.save(tmp_path / f"{name}.png")
        assert np.array_equal(images.read_mask(tmp_path / f"{name}.png"), values), name
    halved = images.read_mask(tmp_path / "bit.png", (2, 3))
    assert np.array_equal(halved, values[::2, ::2])  # the position rounded down, not the nearest centre
    doubled = images.read_mask(tmp_path / "bit.png", (8, 12))
    assert np.array_equal(doubled, values.repeat(2, 0).repeat(2, 1))


def test_resizing_is_opencvs() -> None:
    """Golden values of cv2.resize (4.10 and 5.0 agree): INTER_LINEAR on grey levels, INTER_NEAREST on masks."""
    golden = np.load(Path(__file__).parent / "golden" / "opencv_resize.npz")
    for i in range(4):
        wanted = golden[f"image{i}_resized"].astype(int)
        gap = images.resize_bilinear(golden[f"image{i}"], wanted.shape[:2]) - wanted
        assert np.abs(gap).max() <= 1 and (gap != 0).mean() < 0.01, i
        smaller = wanted.size < golden[f"image{i}"].size
        assert not (smaller and gap.any()), i  # exact wherever the image shrinks
        wanted = golden[f"mask{i}_resized"]
        assert np.array_equal(images.resize_nearest(golden[f"mask{i}"], wanted.shape), wanted), i


def test_to_tensor_is_normalised_and_resized() -> None:
    tensor = to_tensor(np.full((20, 30, 3), 255, np.uint8), (8, 16))
    assert tensor.shape == (3, 8, 16)
    expected = [(1 - m) / s for m, s in zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)]
    assert tensor.mean((1, 2)).tolist() == pytest.approx(expected, abs=1e-5)
    with pytest.raises(InputError, match="uint8"):
        to_tensor(np.zeros((8, 8, 3)), (8, 8))


# --- what people have


def odd_images() -> dict[str, Image.Image]:
    """One of each kind, by file name."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
    rgb, exif = Image.fromarray(pixels), Image.Exif()
    exif[0x0112] = QUARTER_TURN
    deep = Image.fromarray(pixels[:, :, 0].astype(np.uint16) * 257)
    turned = Image.fromarray(np.rot90(pixels).copy())
    turned.info["exif"] = exif.tobytes()
    return {
        "16 bit.png": deep,
        "palette.png": rgb.quantize(16),
        "transparent.png": rgb.convert("RGBA"),
        "turned.png": turned,
        "ink.jpg": rgb.convert("CMYK"),
        "web.webp": rgb,
        "one pixel.png": Image.fromarray(pixels[:1, :1]),
        "two\nlines, and a comma.png": rgb,
        "перекос-ß-裂.png": rgb,
    }


def test_every_kind_of_image_under_any_name_makes_a_data_set(tmp_path: Path) -> None:
    root = category(tmp_path / "mine")
    for name, image in odd_images().items():
        image.save(root / "train" / "good" / name, exif=image.info.get("exif", b""))
    (root / "train" / "good" / "folder.png").mkdir()
    (root / "train" / "good" / "up").symlink_to(root / "train")  # a circle
    found = open_dataset("mvtec", "mine", tmp_path)
    assert {s.image.name for s in found.train} == {"a.png", "b.png", *odd_images()}
    for sample in found.train:
        read = images.read_image(sample.image)
        assert read.dtype == np.uint8 and read.shape[2] == 3
        assert to_tensor(read, (32, 24)).isfinite().all()
    assert len(found.fingerprint()) == 64
    read = {name: images.read_image(root / "train" / "good" / name).astype(int) for name in odd_images()}
    pixels = np.asarray(odd_images()["web.webp"]).astype(int)
    for name in ("turned.png", "transparent.png", "two\nlines, and a comma.png", "перекос-ß-裂.png"):
        assert np.array_equal(read[name], pixels), name
    assert np.array_equal(read["16 bit.png"], np.repeat(pixels[:, :, :1], 3, 2))
    assert np.array_equal(read["one pixel.png"], pixels[:1, :1])
    for name in ("palette.png", "ink.jpg", "web.webp"):  # fewer colours, or compressed
        assert np.corrcoef(read[name].ravel(), pixels.ravel())[0, 1] > 0.6, name


def test_a_pillow_image_stands_as_upright_as_its_file(tmp_path: Path) -> None:
    image = odd_images()["turned.png"]
    image.save(tmp_path / "turned.png", exif=image.info["exif"])
    model = SuperSimpleNet("efficientnet_lite0", image_size=(32, 32)).eval()
    with Image.open(tmp_path / "turned.png") as opened:
        assert opened.size == (12, 16)
        assert model.predict(opened).score == model.predict(tmp_path / "turned.png").score


@pytest.mark.parametrize("content", [b"", b"GIF89a", b"\x89PNG\r\n\x1a\n", "half", "link"])
def test_what_cannot_be_read_is_named_before_training(content: bytes | str, tmp_path: Path) -> None:
    bad = category(tmp_path / "mine") / "train" / "good" / "bad.png"
    if content == "link":
        bad.symlink_to(bad)  # to itself
    elif content == "half":
        Image.effect_noise((64, 64), 50).save(bad)
        bad.write_bytes(bad.read_bytes()[:-2000])
    else:
        bad.write_bytes(content)
    with pytest.raises(InputError, match=r"has 1 problem:\n  - .*bad.png: not a readable image"):
        open_dataset("mvtec", "mine", tmp_path)


@pytest.mark.parametrize(("dataset", "below"), [("mvtec", ""), ("own", "test")])
def test_formats_that_are_not_read_are_named_once_each(dataset: str, below: str, tmp_path: Path) -> None:
    test = category(tmp_path / "mine") / "test"  # by itself it is good/ beside a folder of defects
    for name in ("good/Y.HEIC", "scratch/x.heic", "good/z.gif", "good/._z.gif", "notes.txt"):
        (test / name).touch()
    with pytest.raises(InputError) as caught:
        open_dataset(dataset, "mine", tmp_path / "mine" / below)
    assert str(caught.value).split("\n  - ")[1:] == [
        f"{test}/good/Y.HEIC: .heic is not read (2 files); convert to png or move away.",
        f"{test}/good/z.gif: .gif is not read (1 file); convert to png or move away.",
    ]


def test_folders_that_are_not_read_are_not_searched_for_such_formats(tmp_path: Path) -> None:
    """Originals below a flat folder of own images, and whatever a hidden folder holds."""
    for folder in ("originals", ".cache"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.heic").touch()
    assert images.unread_images(tmp_path, below=False) == [] and len(images.unread_images(tmp_path)) == 1
    for i in range(5):
        Image.fromarray(np.full((40, 40, 3), 50 + i, np.uint8)).save(tmp_path / f"{i}.png")
    assert len(open_dataset("own", tmp_path.name, tmp_path).train) == 4


def test_a_name_that_no_results_file_can_hold_is_refused(tmp_path: Path) -> None:
    root = category(tmp_path / "mine")
    os.rename(root / "train/good/a.png", os.fsencode(root / "train/good") + b"/\xff.png")
    with pytest.raises(InputError, match=r"udcff.png': the name is not UTF-8, .*rename it"):
        open_dataset("mvtec", "mine", tmp_path)


def test_twelve_bits_in_sixteen_are_refused_for_the_set_and_never_stretched(tmp_path: Path) -> None:
    root = category(tmp_path / "mine")
    rng = np.random.default_rng(0)
    for sample in sorted(root.rglob("*.png")):
        Image.fromarray(rng.integers(0, 4096, (12, 16), dtype=np.uint16)).save(sample)
    with pytest.raises(InputError, match=f"{root}: no image is brighter than 16 of 255.*multiply all of them by 16"):
        open_dataset("mvtec", "mine", tmp_path)
    picture(root / "train" / "good" / "bright.png", 17)  # one that is brighter: the others are dark, and stay so
    assert images.read_image(open_dataset("mvtec", "mine", tmp_path).train[0].image).max() == 16


def test_files_are_listed_without_asking_for_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A question a file makes a set of ten thousand on a network disk slow."""
    names = [f"{i}.png" for i in range(3)]
    for name in names:
        (tmp_path / name).touch()
    asked: list[str] = []
    with monkeypatch.context() as patched:
        for name in ("stat", "lstat"):
            ask = getattr(os, name)
            patched.setattr(os, name, lambda path, ask=ask, **options: asked.append(str(path)) or ask(path, **options))
        found = images.list_images(tmp_path)
    assert [path for path in asked if path.endswith(".png")] == []
    assert found == [tmp_path / name for name in names]


# --- masks, by their properties

regions = arrays.arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9)))


@settings(max_examples=40, deadline=None)
@given(values=regions, mode=st.sampled_from(["1", "L", "0 and 1", "I;16", "RGB", "RGBA", "LA", "P"]))
def test_a_mask_is_the_same_in_every_lossless_mode(
    tmp_path_factory: pytest.TempPathFactory, values: np.ndarray, mode: str
) -> None:
    path = tmp_path_factory.mktemp("mask") / "mask.png"
    image = Image.fromarray(values.astype(np.uint8) * (1 if mode == "0 and 1" else 255))
    if mode == "I;16":
        image = Image.fromarray(values.astype(np.uint16))
    elif mode != "0 and 1":
        image = image.convert(mode)
    image.save(path)
    assert np.array_equal(images.read_mask(path), values)


@settings(max_examples=40, deadline=None)
@given(
    corner=st.tuples(st.integers(0, 30), st.integers(0, 30)),
    size=st.tuples(st.integers(4, 30), st.integers(4, 30)),
    suffix=st.sampled_from([".jpg", ".webp"]),
)
def test_a_lossy_mask_keeps_its_area(
    tmp_path_factory: pytest.TempPathFactory, corner: tuple[int, int], size: tuple[int, int], suffix: str
) -> None:
    path = tmp_path_factory.mktemp("mask") / f"mask{suffix}"
    (y, x), (height, width) = corner, size
    values = np.zeros((64, 64), bool)
    values[y : y + height, x : x + width] = True
    Image.fromarray(values.astype(np.uint8) * 255).save(path, quality=75)
    found = images.read_mask(path)
    assert (found != values).sum() <= 0.02 * values.size
    assert abs(int(found.sum()) - int(values.sum())) <= max(2, 0.1 * values.sum())


@settings(max_examples=60, deadline=None)
@given(values=regions, size=st.tuples(st.integers(1, 12), st.integers(1, 12)))
def test_nearest_takes_the_position_rounded_down(values: np.ndarray, size: tuple[int, int]) -> None:
    found = images.resize_nearest(values, size)
    assert found.shape == size
    for y, x in np.ndindex(*size):
        assert found[y, x] == values[y * values.shape[0] // size[0], x * values.shape[1] // size[1]]
