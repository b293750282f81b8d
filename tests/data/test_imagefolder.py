import os
import pickle
import struct
import sys
import zlib

import numpy as np
import pytest

from minigrad.data import ImageFolder, Loader, channel_statistics
from minigrad.data.png import bytes_of_rows

pillow = pytest.importorskip("PIL.Image")


@pytest.fixture
def save(tmp_path):
    """A function that saves an array as a picture in a class's folder below tmp_path / "data" and gives its path."""

    def write(name, pixels, **options):
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pillow.fromarray(pixels).save(path, **options)
        return path

    return write


@pytest.fixture
def colours(save, tmp_path):
    """A folder of nine pictures, 6 by 4 pixels, of three classes; picture i has the one colour (10 i, 0, 255 - 10 i)."""
    names = ["b/1.png", "a/2.png", "c/x.PNG", "a/10.png", "b/z.bmp", "a/1.tif", "c/X.ppm", "c/é.png", "b/é.png"]
    for i, name in enumerate(sorted(names)):
        save(name, np.full((4, 6, 3), (10 * i, 0, 255 - 10 * i), np.uint8))
    return tmp_path / "data"


def test_pictures_come_in_the_order_of_their_names(colours):
    data = ImageFolder(colours, size=4)
    assert data.classes == ("a", "b", "c")
    assert data.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert data.labels.dtype == np.int64
    assert data.images[:][:, 0, 0, 0].tolist() == [0, 10, 20, 30, 40, 50, 60, 70, 80]


def test_pictures_have_the_shape_of_an_array(colours):
    images = ImageFolder(colours, size=(5, 7)).images
    assert (images.shape, images.ndim, images.dtype, len(images)) == ((9, 5, 7, 3), 4, np.uint8, 9)
    assert images[:].shape == (9, 5, 7, 3)


@pytest.mark.parametrize("index", [3, -1, slice(2, 7, 2), slice(0, 0), np.array([4, 0, 4]), [True] + [False] * 8])
def test_pictures_are_indexed_like_an_array(colours, index):
    images = ImageFolder(colours, size=4).images
    np.testing.assert_array_equal(images[index], images[:][index])


def test_index_out_of_range_is_an_error(colours):
    with pytest.raises(IndexError, match="9"):
        ImageFolder(colours, size=4).images[9]


@pytest.mark.parametrize("prefetch", [0, 2])
@pytest.mark.parametrize("shuffle", [True, False])
def test_a_loader_takes_pictures_like_an_array(colours, shuffle, prefetch):
    data = ImageFolder(colours, size=4)
    ours = Loader(data.images, data.labels, batch_size=4, shuffle=shuffle, prefetch=prefetch)
    theirs = Loader(data.images[:], data.labels, batch_size=4, shuffle=shuffle)
    for batch, expected in zip(ours.steps(6), theirs.steps(6), strict=True):
        np.testing.assert_array_equal(batch[0], expected[0])
        np.testing.assert_array_equal(batch[1], expected[1])


def test_statistics_are_taken_of_pictures(colours):
    images = ImageFolder(colours, size=4).images
    for ours, theirs in zip(channel_statistics(images), channel_statistics(images[:]), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("name", ["a/.hidden.png", ".trash/1.png", "a/deeper/1.png", "top.png"])
def test_what_is_hidden_or_elsewhere_is_left_out(colours, save, name):
    save(name, np.zeros((4, 4, 3), np.uint8))
    data = ImageFolder(colours, size=4)
    assert (len(data), data.classes) == (9, ("a", "b", "c"))


def test_other_files_are_left_out(colours):
    (colours / "a" / "notes.txt").write_text("no picture")
    (colours / "readme.md").write_text("no picture")
    assert len(ImageFolder(colours, size=4)) == 9


def test_pictures_of_the_right_size_are_read_as_they_are(save, rng, tmp_path):
    pixels = rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    save("a/1.png", pixels)
    np.testing.assert_array_equal(ImageFolder(tmp_path / "data", size=(5, 7)).images[0], pixels)


def test_crop_cuts_equally_on_both_sides(save, rng, tmp_path):
    pixels = rng.integers(0, 256, (4, 10, 3), dtype=np.uint8)
    save("a/1.png", pixels)
    np.testing.assert_array_equal(ImageFolder(tmp_path / "data", size=4).images[0], pixels[:, 3:7])


def test_without_crop_the_whole_picture_is_stretched(save, tmp_path):
    pixels = np.zeros((4, 40, 3), np.uint8)
    pixels[:, 20:] = 200
    save("a/1.png", pixels)
    image = ImageFolder(tmp_path / "data", size=8, crop=False).images[0]
    assert (image[:, :2] == 0).all()
    assert (image[:, 6:] == 200).all()


def test_grey_pictures_get_three_equal_channels(save, rng, tmp_path):
    grey = rng.integers(0, 256, (4, 4), dtype=np.uint8)
    save("a/1.png", grey)
    np.testing.assert_array_equal(ImageFolder(tmp_path / "data", size=4).images[0], np.stack([grey] * 3, axis=-1))


@pytest.mark.parametrize("background", [(255, 255, 255), (10, 20, 30)])
def test_what_is_transparent_shows_the_background(background, save, rng, tmp_path):
    pixels = rng.integers(0, 256, (4, 4, 4), dtype=np.uint8)
    pixels[..., 3] = rng.integers(0, 2, (4, 4)) * 255
    save("a/1.png", pixels)
    expected = np.where(pixels[..., 3:] == 255, pixels[..., :3], np.array(background, np.uint8))
    image = ImageFolder(tmp_path / "data", size=4, background=background).images[0]
    np.testing.assert_array_equal(image, expected)


def test_transparent_colour_of_a_palette_shows_the_background(save, tmp_path):
    picture = pillow.fromarray(np.array([[0, 1], [1, 0]], np.uint8))
    picture = pillow.frombytes("P", (2, 2), picture.tobytes())
    picture.putpalette([7, 7, 7, 200, 100, 50])
    path = save("a/1.png", np.zeros((2, 2), np.uint8))
    picture.save(path, transparency=0)
    image = ImageFolder(tmp_path / "data", size=2).images[0]
    np.testing.assert_array_equal(image[0], [[255, 255, 255], [200, 100, 50]])


def test_the_orientation_noted_by_a_camera_is_followed(save, rng, tmp_path):
    pixels = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    exif = pillow.Exif()
    exif[0x0112] = 3  # taken upside down
    save("a/1.png", pixels, exif=exif)
    np.testing.assert_array_equal(ImageFolder(tmp_path / "data", size=4).images[0], pixels[::-1, ::-1])


def test_jpeg_is_read(save, tmp_path):
    save("a/1.jpg", np.full((8, 8, 3), (10, 100, 200), np.uint8), quality=95)
    np.testing.assert_allclose(ImageFolder(tmp_path / "data", size=8).images[0][0, 0], (10, 100, 200), atol=3)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-200])


def overwrite(path):
    path.write_bytes(b"<!DOCTYPE html>")


def empty(path):
    path.write_bytes(b"")


def damage(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(data)


def pickled(path):
    path.write_bytes(pickle.dumps([1, 2, 3]))


@pytest.mark.parametrize("spoil", [truncate, overwrite, empty, damage, pickled])
def test_a_corrupt_picture_is_an_error_that_names_the_file(spoil, save, rng, tmp_path):
    spoil(save("a/bad.png", rng.integers(0, 256, (20, 20, 3), dtype=np.uint8)))
    with pytest.raises(ValueError, match=r"bad\.png: not a picture that can be read"):
        ImageFolder(tmp_path / "data", size=20).images[0]


def test_a_corrupt_picture_is_named_through_loader_and_thread(save, tmp_path):
    empty(save("a/bad.png", np.zeros((4, 4, 3), np.uint8)))
    data = ImageFolder(tmp_path / "data", size=4)
    with pytest.raises(ValueError, match=r"bad\.png"):
        list(Loader(data.images, data.labels, batch_size=1, prefetch=1))


def test_a_picture_of_16_bits_is_refused(save, tmp_path):
    save("a/deep.png", np.full((4, 4), 40000, np.uint16))
    with pytest.raises(ValueError, match=r"deep\.png.*more than 8 bits"):
        ImageFolder(tmp_path / "data", size=4).images[0]


def test_a_picture_too_large_to_be_true_is_refused(save, monkeypatch, tmp_path):
    save("a/bomb.png", np.zeros((40, 40, 3), np.uint8))
    monkeypatch.setattr(pillow, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ValueError, match=r"bomb\.png.*1600 pixels"):
        ImageFolder(tmp_path / "data", size=4).images[0]


def test_picture_of_too_many_pixels_is_refused_before_it_is_decoded(save, tmp_path):
    save("a/large.png", np.zeros((40, 41, 3), np.uint8))
    assert ImageFolder(tmp_path / "data", size=4, max_pixels=1640).images[0].shape == (4, 4, 3)
    with pytest.raises(ValueError, match=r"large\.png.*41 x 40 pixels, more than max_pixels=1,639"):
        ImageFolder(tmp_path / "data", size=4, max_pixels=1639).images[0]


def chunks(data):
    """(kind, content) of each chunk of a PNG."""
    place = 8
    while place < len(data):
        length, kind = struct.unpack(">I4s", data[place : place + 8])
        yield kind, data[place + 8 : place + 8 + length]
        place += 12 + length


def png(parts):
    """The bytes of a PNG of these chunks, checksums right."""
    body = [struct.pack(">I4s", len(c), k) + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in parts]
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


def half_the_rows(data):
    """The same PNG, sound but for its rows, of which the second half is missing."""
    whole = b"".join(content for kind, content in chunks(data) if kind == b"IDAT")
    rows = zlib.decompress(whole)
    parts = [(kind, content) for kind, content in chunks(data) if kind != b"IDAT"]
    return png([parts[0], (b"IDAT", zlib.compress(rows[: len(rows) // 2])), *parts[1:]])


def wrong_checksum(data):
    """The same PNG with another checksum of its pixels."""
    place = data.index(b"IDAT") - 4
    (length,) = struct.unpack(">I", data[place : place + 4])
    changed = bytearray(data)
    changed[place + 8 + length] ^= 1
    return bytes(changed)


@pytest.mark.parametrize(("spoil", "message"), [(half_the_rows, "its rows take"), (wrong_checksum, "the checksum of")])
@pytest.mark.parametrize("shape", [(50, 41, 3), (50, 41), (33, 7, 4)])
def test_png_that_is_not_whole_is_refused(spoil, message, shape, save, rng, tmp_path):
    path = save("a/1.png", rng.integers(0, 256, shape, dtype=np.uint8))
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(ValueError, match=rf"1\.png: not a picture that can be read: {message}"):
        ImageFolder(tmp_path / "data", size=4).images[0]


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA"])
@pytest.mark.parametrize("size", [(1, 1), (9, 3), (40, 40), (700, 500)])
def test_whole_png_of_any_kind_is_read(mode, size, rng, tmp_path):
    (tmp_path / "a").mkdir()
    noise = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    pillow.fromarray(noise).convert(mode).save(tmp_path / "a" / "1.png")
    assert ImageFolder(tmp_path, size=4).images[0].shape == (4, 4, 3)


def test_interlaced_rows_are_counted_pass_by_pass():
    """8 x 8 pixels of 8 bits: passes of 1, 1, 2, 4, 8, 16 and 32 pixels in 1, 1, 1, 2, 2, 4 and 4 rows."""
    assert bytes_of_rows(struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 1)) == 64 + 15
    assert bytes_of_rows(struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 1)) == 3 + 1
    assert bytes_of_rows(struct.pack(">IIBBBBB", 9, 2, 1, 0, 0, 0, 0)) == 2 * (1 + 2)


def test_all_damaged_files_are_listed_at_once(colours):
    spoiled = sorted(path for path in colours.rglob("*.png") if path.name != "2.png")[:2]
    for path in spoiled:
        overwrite(path)
    damaged = ImageFolder(colours, size=4).images.damaged()
    assert sorted(damaged) == spoiled
    assert all(str(path) in why for path, why in damaged.items())


def test_damaged_files_are_skipped_with_one_warning(colours):
    overwrite(colours / "a" / "2.png")
    overwrite(colours / "b" / "1.png")
    with pytest.warns(
        UserWarning, match=r"(?s)2 of 9 pictures cannot be read and are left out:.*2\.png.*1\.png"
    ) as warned:
        data = ImageFolder(colours, size=4, damaged="skip")
    assert len(warned) == 1
    assert data.labels.tolist() == [0, 0, 1, 1, 2, 2, 2]
    assert data.images[:].shape == (7, 4, 4, 3)


def test_class_of_damaged_files_alone_is_an_error(colours):
    for path in (colours / "a").iterdir():
        overwrite(path)
    with pytest.raises(ValueError, match="none of the pictures in a can be read"):
        ImageFolder(colours, size=4, damaged="skip")


def test_split_takes_a_share_of_each_class(save, tmp_path):
    for i in range(30):
        save(f"{'ab'[i % 3 == 0]}/{i:02}.png", np.full((2, 2, 3), i, np.uint8))
    data = ImageFolder(tmp_path / "data", size=2)
    train, validation = data.split(0.1, seed=4)
    assert np.bincount(train.labels).tolist() == [18, 9]
    assert np.bincount(validation.labels).tolist() == [2, 1]
    both = sorted([*train.images.paths, *validation.images.paths])
    assert both == sorted(data.images.paths)
    for part in (train, validation):
        assert [path.parent.name for path in part.images.paths] == [part.classes[label] for label in part.labels]
    assert data.split(0.1, seed=4)[1].images.paths == validation.images.paths
    assert data.split(0.1, seed=5)[1].images.paths != validation.images.paths


@pytest.mark.parametrize("share", [0, 1, -0.1, 0.01, 0.99])
def test_split_that_leaves_nothing_is_refused(share, colours):
    with pytest.raises(ValueError, match="share"):
        ImageFolder(colours, size=4).split(share)


@pytest.mark.skipif(os.name == "nt", reason="Windows keeps open files")
def test_a_picture_that_is_gone_is_missing_not_corrupt(colours):
    data = ImageFolder(colours, size=4)
    data.images.paths[2].unlink()
    with pytest.raises(FileNotFoundError):
        data.images[2]


def test_no_folder_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent isn't a folder"):
        ImageFolder(tmp_path / "absent", size=4)


def test_pictures_without_classes_are_an_error_that_shows_the_layout(save, tmp_path):
    save("1.png", np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(ValueError, match=r"holds no folders.*class.picture\.jpg"):
        ImageFolder(tmp_path / "data", size=4)


def test_a_class_without_pictures_is_an_error(colours):
    (colours / "d").mkdir()
    with pytest.raises(ValueError, match=r"no pictures .* in d;"):
        ImageFolder(colours, size=4)


@pytest.mark.parametrize(
    ("size", "error"), [(0, ValueError), ((4, -1), ValueError), (4.0, TypeError), ("4", TypeError)]
)
def test_bad_sizes_are_refused(colours, size, error):
    with pytest.raises(error, match="must be (an integer|at least 1), not"):
        ImageFolder(colours, size=size)


def test_without_pillow_the_error_says_how_to_install_it(colours, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match=r"pip install 'minigrad-bn\[images\]'"):
        ImageFolder(colours, size=4)
