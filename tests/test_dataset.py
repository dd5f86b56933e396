"""From files to batches: dataset, cache, split, order, augmentation, normalisation."""

import os
import resource
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

import trainpart1
import wikiart
from support import balance, batches, devices, images, training

S = 16
COUNTS = {"Cubism": 3, "Baroque": 2, "Rococo": 4}


def by_pillow(path, size=S):
    """An image by plain Pillow, as the contract has it: upright, RGB, stretched."""
    image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR)).transpose(2, 0, 1)


def is_close(pixels, others):
    """Whether two images differ by one grey level at most: two libraries round differently."""
    return np.abs(pixels.astype(int) - others).max() <= 1


@pytest.fixture
def folder(tmp_path, paint):
    return paint(tmp_path / "paintings", COUNTS)


@pytest.fixture
def load(tmp_path):
    """load(folder, **more): the dataset with its cache in the test's own folder."""

    def load(folder, image_size=S, classes=None):
        return wikiart.WikiArtDataset(str(folder), image_size, classes, str(tmp_path / "cache"))

    return load


def names(dataset, folder):
    return [os.path.relpath(path, folder) for path in dataset.paths]


def save(folder, name, image=None, **options):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    (image or Image.new("RGB", (20, 30), (10, 200, 60))).save(path, **options)
    return path


# What is a painting, and what its label


def test_the_dataset_has_what_the_contract_names(folder, load):
    dataset = load(folder)
    assert isinstance(dataset, torch.utils.data.Dataset) and len(dataset) == 9
    assert dataset.classes == ["Baroque", "Cubism", "Rococo"]
    assert dataset.counts == {"Baroque": 2, "Cubism": 3, "Rococo": 4}
    assert dataset.labels.dtype == torch.int64 and dataset.labels.tolist() == [0] * 2 + [1] * 3 + [2] * 4
    assert dataset.images.dtype == torch.uint8 and dataset.images.shape == (9, 3, S, S)
    image, label = dataset[4]
    assert torch.equal(image, dataset.images[4]) and (label, type(label)) == (1, int)
    assert dataset.paths[4] == str(folder / "Cubism" / "002.jpg")


def test_pixels_are_plain_pillows_up_to_one_grey_level(folder, load):
    dataset = load(folder)
    for image, path in zip(dataset.images, dataset.paths, strict=True):
        assert is_close(image.numpy(), by_pillow(path))


def test_a_large_jpeg_decoded_at_a_reduced_scale_stays_close_to_plain_pillow(tmp_path, load, paint):
    small = Image.open(paint(tmp_path / "q", {"A": 1}) / "A" / "000.jpg")
    path = save(tmp_path / "p", "A/large.jpg", small.resize((700, 500), Image.Resampling.BICUBIC), quality=95)
    image = load(tmp_path / "p", 32).images[0].numpy().astype(int)
    assert np.abs(image - by_pillow(path, 32)).mean() < 1.5
    assert np.abs(image - by_pillow(path, 32)).max() < 25


def test_images_are_found_at_any_depth_and_in_any_case(folder, load):
    shutil.rmtree(folder)
    kinds = ["a.jpg", "b.JPEG", "deep/er/c.Png", "d.webp", "e.BMP", "f.gif", "g.tif", "h.TIFF", "i j é.jpg"]
    for kind in kinds:
        save(folder, f"Cubism/{kind}")
    for other in ["notes.txt", "x.jpg.bak", "jpg", "y.svg", "z.npy", "w.pdf", "no_ending"]:
        (folder / "Cubism" / other).write_text("no painting")
    dataset = load(folder)
    assert sorted(names(dataset, folder)) == sorted(f"Cubism/{kind}" for kind in kinds)


def test_what_is_hidden_is_passed_over_in_silence(folder, load, capsys):
    for hidden in [".git/a.jpg", "Cubism/.b.jpg", "Cubism/.deep/c.jpg", "Rococo/._000.jpg"]:
        save(folder, hidden)
    save(folder, "loose.jpg")
    dataset = load(folder)
    assert (len(dataset), dataset.classes) == (9, ["Baroque", "Cubism", "Rococo"])
    assert capsys.readouterr().err == ""


def test_one_name_in_two_styles_is_two_paintings(tmp_path, load):
    save(tmp_path / "p", "A/x.png", Image.new("RGB", (9, 9), "red"))
    save(tmp_path / "p", "B/x.png", Image.new("RGB", (9, 9), "blue"))
    dataset = load(tmp_path / "p")
    assert dataset.labels.tolist() == [0, 1]
    assert dataset.images[:, :, 0, 0].tolist() == [[255, 0, 0], [0, 0, 255]]


def test_given_classes_keep_their_labels(folder, load):
    classes = ["Art_Nouveau", "Baroque", "Cubism", "Minimalism", "Rococo", "Symbolism"]
    dataset = load(folder, classes=classes)
    assert dataset.classes == classes
    assert dataset.labels.tolist() == [1] * 2 + [2] * 3 + [4] * 4
    assert dataset.counts == dict(zip(classes, [0, 2, 3, 0, 4, 0], strict=True))


def test_a_style_that_is_not_given_is_an_error_that_names_it(folder, load):
    with pytest.raises(images.DataError, match='"Cubism"'):
        load(folder, classes=["Baroque", "Rococo"])


def test_a_style_without_images_is_passed_over_with_a_warning(folder, load, capsys):
    (folder / "Empty").mkdir()
    assert "Empty" not in load(folder).classes
    assert "Empty" in capsys.readouterr().err


def test_links_to_styles_and_images_are_followed(folder, tmp_path, load):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "Linked").symlink_to(folder / "Cubism")
    save(tmp_path / "other", "Own/a.png")
    (tmp_path / "other" / "Own" / "b.jpg").symlink_to(folder / "Rococo" / "000.jpg")
    assert load(tmp_path / "other").counts == {"Linked": 3, "Own": 2}


def test_a_loop_of_links_ends_and_counts_nothing_twice(folder, load):
    (folder / "Cubism" / "again").symlink_to(folder / "Cubism")
    (folder / "Cubism" / "up").symlink_to("..")
    dataset = load(folder)
    assert len(set(dataset.paths)) == len(dataset)
    assert [path for path in names(dataset, folder) if "again" in path] == []
    assert dataset.counts["Baroque"] == 2


# Folders that cannot be used


@pytest.mark.parametrize("kind", ["missing", "a file", "empty", "only text", "empty styles", "images without styles"])
def test_a_folder_that_cannot_be_used_is_one_line(workdir, refused, listing, kind):
    folder = workdir / "paintings"
    if kind == "a file":
        folder.write_text("x")
    elif kind != "missing":
        folder.mkdir()
    if kind == "only text":
        (folder / "README.txt").write_text("x")
    if kind == "empty styles":
        (folder / "Cubism").mkdir()
    if kind == "images without styles":
        save(folder, "a.jpg")
    before = listing(workdir)
    line = refused(trainpart1, "--trainingdir", "paintings")
    assert line.startswith("--trainingdir: ") and '"paintings"' in line
    assert kind != "images without styles" or "no style folders" in line
    assert listing(workdir) == before


# Kinds of image


KINDS = {
    "grey.jpg": Image.new("L", (12, 20), 90),
    "cmyk.jpg": Image.new("CMYK", (12, 20), (30, 60, 90, 20)),
    "grey.png": Image.new("L", (12, 20), 90),
    "one_bit.png": Image.new("1", (12, 20), 1),
    "palette.gif": Image.new("RGB", (12, 20), (255, 0, 0)).convert("P"),
    "cmyk.tif": Image.new("CMYK", (12, 20), (30, 60, 90, 20)),
    "lab.tif": Image.new("LAB", (12, 20), (128, 128, 128)),
    "rgb.webp": Image.new("RGB", (12, 20), (1, 2, 250)),
}


@pytest.mark.parametrize("name", KINDS)
def test_every_colour_space_becomes_rgb_as_pillow_has_it(tmp_path, name):
    path = save(tmp_path, name, KINDS[name])
    image = images.decode_image(str(path), S)
    assert image.shape == (3, S, S) and image.dtype == np.uint8
    assert is_close(image, by_pillow(path))


def test_a_tall_thin_image_takes_no_more_memory_than_it_has_pixels(tmp_path):
    """Its rows stretched first would take 3 GB."""
    path = save(tmp_path, "thin.png", Image.new("RGB", (1, 1_000_000), (200, 100, 0)))
    limits = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**30, limits[1]))
    try:
        image = images.decode_image(str(path), 1024)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
    assert image.shape == (3, 1024, 1024) and np.unique(image[0]).tolist() == [200]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_exif_orientation_is_applied(tmp_path, orientation):
    pixels = np.zeros((24, 32, 3), np.uint8)
    pixels[:12, :16] = (250, 0, 0)
    pixels[12:, :16] = (0, 250, 0)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path, "o.jpg", Image.fromarray(pixels), exif=exif, quality=95)
    corners = {1: (0, 0), 2: (0, 1), 3: (1, 1), 4: (1, 0), 5: (0, 0), 6: (0, 1), 7: (1, 1), 8: (1, 0)}
    red = images.decode_image(str(path), S)[0].astype(int) - images.decode_image(str(path), S)[1]
    quarters = red.reshape(2, S // 2, 2, S // 2).mean((1, 3))
    assert np.unravel_index(quarters.argmax(), (2, 2)) == corners[orientation]
    assert is_close(images.decode_image(str(path), S), by_pillow(path))


def test_sixteen_bits_are_scaled_to_eight(tmp_path):
    values = np.array([0, 257, 32896, 65535], np.uint16).repeat(4)
    path = save(tmp_path, "deep.png", Image.fromarray(np.tile(values, (16, 1))))
    image = images.decode_image(str(path), 16)
    assert image[:, 8, [1, 14]].tolist() == [[0, 255]] * 3
    assert 120 <= image[0, 8, 10] <= 136


def test_transparency_shows_white(tmp_path):
    clear, solid = Image.new("RGBA", (9, 9), (255, 0, 0, 0)), Image.new("RGBA", (9, 9), (255, 0, 0, 255))
    palette = Image.new("P", (9, 9), 3)
    palette.putpalette([9, 9, 9] * 256)
    files = {
        "clear.png": (clear, {}, [255, 255, 255]),
        "solid.png": (solid, {}, [255, 0, 0]),
        "clear.webp": (clear, {"lossless": True}, [255, 255, 255]),
        "grey.png": (Image.new("LA", (9, 9), (0, 0)), {}, [255, 255, 255]),
        "palette.png": (palette, {"transparency": 3}, [255, 255, 255]),
        "shown.png": (palette, {"transparency": 4}, [9, 9, 9]),
    }
    for name, (image, options, color) in files.items():
        path = save(tmp_path, name, image, **options)
        assert (images.decode_image(str(path), S) == np.array(color)[:, None, None]).all(), name


def test_the_first_frame_of_an_animation_counts(tmp_path):
    frames = [Image.new("RGB", (9, 9), color) for color in ("red", "lime", "blue")]
    path = save(tmp_path, "a.gif", frames[0], save_all=True, append_images=frames[1:])
    assert (images.decode_image(str(path), S) == np.array([255, 0, 0])[:, None, None]).all()


def test_the_content_counts_and_not_the_ending(tmp_path):
    path = save(tmp_path, "truly_png.jpg", Image.new("RGB", (9, 9), (1, 2, 3)), format="PNG")
    assert (images.decode_image(str(path), S) == np.array([1, 2, 3])[:, None, None]).all()


def test_a_format_that_starts_another_program_is_refused(tmp_path):
    (tmp_path / "e.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    with pytest.raises(images.DataError):
        images.decode_image(str(tmp_path / "e.jpg"), S)


# Broken files: named, left out, and the rest goes on


def break_corrupt(path, good):
    path.write_bytes(good[:40] + b"\xff" * len(good))


def break_truncated(path, good):
    path.write_bytes(good[: len(good) // 2])


def break_empty(path, good):
    path.write_bytes(b"")


def break_text(path, good):
    path.write_text("this is no painting\n" * 50)


def break_dangling(path, good):
    path.symlink_to("nowhere.jpg")


def break_circle(path, good):
    path.symlink_to(path.name)


def break_fifo(path, good):
    os.mkfifo(path)


def break_bomb(path, good):
    Image.new("1", (20_000, 20_000)).save(path, format="PNG")


BROKEN = [break_corrupt, break_truncated, break_empty, break_text, break_dangling, break_circle, break_fifo, break_bomb]


@pytest.mark.parametrize("spoil", BROKEN)
def test_a_broken_image_is_named_in_a_warning_and_left_out(folder, load, capsys, spoil):
    good = (folder / "Cubism" / "000.jpg").read_bytes()
    spoil(folder / "Cubism" / "001b.jpg", good)
    dataset = load(folder)
    assert len(dataset) == 9 and not any("001b" in path for path in dataset.paths)
    assert dataset.labels.tolist() == [0] * 2 + [1] * 3 + [2] * 4
    for image, path in zip(dataset.images, dataset.paths, strict=True):
        assert is_close(image.numpy(), by_pillow(path))
    error = capsys.readouterr().err
    assert [line.startswith("warning: ") and "001b.jpg" in line for line in error.splitlines()] == [True]
    assert "left out: " in error and not error.rstrip().endswith("left out:")


def test_a_folder_named_like_an_image_is_named_and_its_images_are_read(folder, load, capsys):
    save(folder, "Cubism/x.jpg/inside.png")
    assert load(folder).counts["Cubism"] == 4
    assert "x.jpg" in capsys.readouterr().err


def test_warnings_of_broken_images_come_again_from_the_cache(folder, load, capsys):
    break_text(folder / "Cubism" / "text.jpg", b"")
    load(folder)
    capsys.readouterr()
    assert len(load(folder)) == 9
    assert "text.jpg" in capsys.readouterr().err


def test_strange_names_stay_on_one_line(folder, load, capsys):
    (folder / "Cubism" / "new\nline\x1b[31m.jpg").write_text("no painting")
    load(folder)
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1 and "\x1b" not in error


def test_half_broken_goes_on_and_more_is_an_error(workdir, load, refused, paint, capsys):
    folder = paint(workdir / "half", {"A": 2, "B": 2})
    for number in range(4):
        break_text(folder / "A" / f"broken{number}.jpg", b"")
    assert len(load(folder)) == 4
    break_text(folder / "B" / "one_more.jpg", b"")
    with pytest.raises(images.DataError, match="5 of 9"):
        load(folder)
    line = refused(trainpart1, "--trainingdir", "half", "--outputdir", "out")
    assert line.startswith("--trainingdir: ") and "5 of 9" in line
    assert not (workdir / "out").exists()


# The cache


@pytest.fixture
def decoded(monkeypatch, tmp_path):
    """A function that gives the paths decoded since it was called last, in no order, whatever process did it."""
    log = tmp_path / "decoded.log"
    decode = images.decode_image

    def spy(path, size):
        with open(log, "a") as file:
            file.write(f"{path}\n")
        return decode(path, size)

    def since_last():
        paths = log.read_text().splitlines() if log.exists() else []
        log.write_text("")
        return paths

    monkeypatch.setattr(images, "decode_image", spy)
    return since_last


def test_each_image_is_decoded_once(folder, load, decoded, monkeypatch):
    first = load(folder)
    assert sorted(decoded()) == sorted(first.paths)

    def never(*_, **__):
        raise AssertionError("an image was opened")

    monkeypatch.setattr(Image, "open", never)
    again = load(folder)
    assert not decoded() and torch.equal(first.images, again.images)
    assert (first.paths, first.fingerprints.tolist()) == (again.paths, again.fingerprints.tolist())


def test_no_image_is_opened_to_weigh_the_styles(folder, load, monkeypatch):
    dataset = load(folder)
    dataset.images = None
    monkeypatch.setattr(Image, "open", None)
    order = balance.index_order("weighted_sampler", dataset.labels, torch.arange(9), None, 0, 1)
    assert len(order) == 9


def change_content(folder):
    Image.new("RGB", (33, 33), "white").save(folder / "Cubism" / "001.jpg")


def change_time(folder):
    os.utime(folder / "Cubism" / "001.jpg", ns=(1, 1))


def change_name(folder):
    (folder / "Cubism" / "001.jpg").rename(folder / "Cubism" / "renamed.jpg")


def change_style(folder):
    (folder / "Cubism" / "001.jpg").rename(folder / "Rococo" / "moved.jpg")


def change_added(folder):
    shutil.copy(folder / "Cubism" / "001.jpg", folder / "Baroque" / "added.jpg")


def change_removed(folder):
    (folder / "Cubism" / "001.jpg").unlink()


CHANGES = [change_content, change_time, change_name, change_style, change_added, change_removed]


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_folder_is_decoded_anew_and_the_old_cache_removed(folder, load, tmp_path, decoded, change):
    load(folder)
    old = {path.name for path in (tmp_path / "cache").glob("*.uint8")}
    decoded()
    change(folder)
    dataset = load(folder)
    assert sorted(decoded()) == sorted(dataset.paths) == sorted(map(str, folder.rglob("*.jpg")))
    for image, path in zip(dataset.images, dataset.paths, strict=True):
        assert is_close(image.numpy(), by_pillow(path))
    new = {path.name for path in (tmp_path / "cache").glob("*.uint8")}
    assert len(new) == 1 and not new & old and len(list((tmp_path / "cache").glob("*.json"))) == 1


def test_sizes_and_folders_have_caches_of_their_own(folder, load, tmp_path, paint, decoded):
    other = paint(tmp_path / "other", COUNTS, seed=1)
    for _ in range(2):
        assert load(folder, 16).images.shape[-1] == 16
        assert load(folder, 32).images.shape[-1] == 32
        assert not torch.equal(load(other).images, load(folder).images)
    assert len(decoded()) == 27


def test_the_cache_is_one_memory_mapped_file_of_uint8(folder, load, tmp_path):
    dataset = load(folder)
    (file,) = (tmp_path / "cache").glob("*.uint8")
    assert file.read_bytes() == dataset.images.numpy().tobytes()
    with open("/proc/self/maps") as maps:
        assert str(file) in maps.read()


def test_a_decode_cut_short_leaves_no_cache_that_passes_for_whole(folder, load, tmp_path, monkeypatch):
    decode, seen = images.decode_image, []

    def cut_short(path, size):
        seen.append(path)
        if len(seen) == 5:
            raise KeyboardInterrupt
        return decode(path, size)

    with monkeypatch.context() as patch:
        patch.setattr(images, "decode_image", cut_short)
        with pytest.raises(KeyboardInterrupt):
            load(folder)
    assert not [path for path in (tmp_path / "cache").iterdir() if path.suffix in (".uint8", ".json", ".part")]
    dataset = load(folder)
    for image, path in zip(dataset.images, dataset.paths, strict=True):
        assert is_close(image.numpy(), by_pillow(path))


@pytest.mark.parametrize("suffix", [".uint8", ".json"])
@pytest.mark.parametrize("damage", [lambda p: p.unlink(), lambda p: p.write_bytes(b""), lambda p: os.truncate(p, 9)])
def test_a_damaged_cache_is_made_anew(folder, load, tmp_path, suffix, damage):
    first = load(folder).images.clone()
    (file,) = (tmp_path / "cache").glob(f"*{suffix}")
    damage(file)
    assert torch.equal(load(folder).images, first)


def test_a_cache_folder_that_cannot_be_made_is_one_line(workdir, paint, refused):
    paint(workdir / "p", {"A": 1})
    (workdir / "occupied").write_text("x")
    line = refused(trainpart1, "--trainingdir", "p", "--cachedir", "occupied", "--outputdir", "out")
    assert '"occupied"' in line and "cannot be written" in line
    assert not Path("out").exists()


# Split


@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.floats(0, 0.9), st.integers(0, 2**32 - 1))
@hypothesis_settings(max_examples=100, deadline=None, database=None)
def test_the_split_is_disjoint_complete_and_stratified(counts, share, seed):
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))]
    training, held_out = balance.split(labels, share, seed)
    assert sorted(training.tolist() + held_out.tolist()) == list(range(len(labels)))
    for label, count in enumerate(counts):
        out = int((labels[held_out] == label).sum())
        assert out < count
        assert abs(out - share * count) <= 1
        assert share or out == 0
    again = balance.split(labels, share, seed)
    assert torch.equal(training, again[0]) and torch.equal(held_out, again[1])


def test_a_style_with_one_painting_keeps_it_in_training():
    labels = torch.tensor([0] * 10 + [1])
    for seed in range(20):
        training, held_out = balance.split(labels, 0.9, seed)
        assert 10 in training and len(held_out) == 9


def test_another_seed_holds_out_other_paintings_and_any_painting_can_be_held_out():
    labels = torch.tensor([0] * 30 + [1] * 30)
    drawn = [tuple(balance.split(labels, 0.2, seed)[1].tolist()) for seed in range(60)]
    assert len(set(drawn)) == 60 and {i for part in drawn for i in part} == set(range(60))


# Order of an epoch


LABELS = torch.tensor([0] * 60 + [1] * 12 + [2] * 3 + [3] * 25)
MEMBERS = torch.arange(0, 100, 1)[torch.arange(100) % 5 != 0]


def test_none_takes_every_member_once():
    order = balance.index_order("none", LABELS, MEMBERS, None, 3, 1)
    assert order.dtype == torch.int64 and order.tolist() != MEMBERS.tolist()
    assert sorted(order.tolist()) == MEMBERS.tolist()


def test_the_weighted_draws_are_those_of_torchs_sampler_with_inverse_frequencies():
    numbers = LABELS[MEMBERS].bincount().tolist()
    weights = [1 / numbers[label] for label in LABELS[MEMBERS].tolist()]
    for seed, epoch in [(3, 1), (3, 2), (2**32 - 1, 9)]:
        generator = torch.Generator().manual_seed(devices.random_seed(seed, epoch))
        sampler = torch.utils.data.WeightedRandomSampler(weights, len(MEMBERS), generator=generator)
        expected = [int(MEMBERS[i]) for i in sampler]
        assert balance.index_order("weighted_sampler", LABELS, MEMBERS, None, seed, epoch).tolist() == expected


def test_weighted_draws_are_balanced_over_styles_and_even_within_them():
    draws = torch.cat([balance.index_order("weighted_sampler", LABELS, MEMBERS, None, 1, e) for e in range(250)])
    assert not set(draws.tolist()) - set(MEMBERS.tolist())
    by_style = LABELS[draws].bincount().float()
    expected = len(draws) / 4
    assert ((by_style - expected) ** 2 / expected).sum() < 21.1  # chi-square, 3 degrees of freedom, p = 0.0001
    common = MEMBERS[LABELS[MEMBERS] == 0]
    within = draws.bincount(minlength=100)[common].float()
    assert ((within - within.mean()) ** 2 / within.mean()).sum() < 2.2 * len(common)


@pytest.mark.parametrize("imbalance", ["none", "weighted_sampler"])
def test_the_order_depends_on_seed_and_epoch_and_nothing_else(imbalance, monkeypatch):
    def order(seed, epoch):
        return tuple(balance.index_order(imbalance, LABELS, MEMBERS, None, seed, epoch).tolist())

    first = order(1, 1)
    torch.manual_seed(5)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert order(1, 1) == first
    assert len({order(seed, epoch) for seed in range(5) for epoch in range(1, 6)}) == 25


# Batches


def numbered(count, size=S):
    """A stand-in for a dataset in which painting i is all of value i."""
    images = torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, size, size).contiguous()
    return SimpleNamespace(images=images, labels=torch.arange(count) % 7)


def test_batches_are_the_paintings_in_order_as_floats_from_0_to_1():
    dataset = numbered(50)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(1))
    made = list(batches.Paintings(dataset, torch.device("cpu")).batches(order, 16))
    assert [len(images) for images, _ in made] == [16, 16, 16, 2]
    images, labels = (torch.cat(column) for column in zip(*made, strict=True))
    assert images.dtype == torch.float32 and torch.equal(images, dataset.images[order].float() / 255)
    assert torch.equal(labels, dataset.labels[order])


@pytest.mark.parametrize("processes", [2, 3, 4])
def test_the_shares_of_the_processes_make_up_each_batch(processes, monkeypatch):
    dataset, order = numbered(60), torch.randperm(60)
    paintings = batches.Paintings(dataset, torch.device("cpu"))
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    shares = []
    for rank in range(processes):
        monkeypatch.setenv("RANK", str(rank))
        shares.append([(255 * images[:, 0, 0, 0]).round().int() for images, _ in paintings.batches(order, 12)])
    for number, parts in enumerate(zip(*shares, strict=True)):
        assert {len(part) for part in parts} == {12 // processes}
        assert sorted(torch.cat(parts).tolist()) == sorted(order[12 * number : 12 * number + 12].tolist())


@pytest.mark.parametrize("count, batch_size", [(10, 4), (10, 5), (3, 8), (1, 7), (9, 1)])
def test_every_training_batch_is_full_and_no_painting_is_missed(count, batch_size):
    order = torch.randperm(count)
    filled = training.full_batches(order, batch_size)
    assert len(filled) % batch_size == 0 and len(filled) - count < batch_size
    assert torch.equal(filled[:count], order) and set(filled.tolist()) == set(range(count))


# Augmentation: read off what happens to two gradients


@pytest.fixture(scope="module")
def crops():
    """Per image of 4,000: left, right, top, bottom of the crop in [0, 1], and whether it is a mirror image."""
    size = 32
    x = ((torch.arange(size) + 0.5) / size).expand(size, size)
    images = torch.stack([x, x.T, torch.full_like(x, 0.3)]).expand(4000, -1, -1, -1).contiguous()
    torch.manual_seed(0)
    out = batches.augment(images)
    assert out.shape == images.shape and out.dtype == torch.float32
    middle = slice(size // 2 - 4, size // 2 + 4)  # away from the borders, where the gradient ends
    slope_x = (out[:, 0, 16, middle][:, -1] - out[:, 0, 16, middle][:, 0]) / 7 * size
    slope_y = (out[:, 1, middle, 16][:, -1] - out[:, 1, middle, 16][:, 0]) / 7 * size
    centre_x, centre_y = out[:, 0, 15:17, 15:17].mean((1, 2)), out[:, 1, 15:17, 15:17].mean((1, 2))
    return SimpleNamespace(out=out, width=slope_x.abs(), height=slope_y, x=centre_x, y=centre_y, mirror=slope_x < 0)


def test_a_crop_lies_within_the_painting(crops):
    for centre, side in [(crops.x, crops.width), (crops.y, crops.height)]:
        assert (centre - side / 2).min() > -1e-4 and (centre + side / 2).max() < 1 + 1e-4


def test_a_crop_takes_from_half_to_all_of_the_area_at_moderate_aspect_ratios(crops):
    area, ratio = crops.width * crops.height, crops.width / crops.height
    assert 0.499 < area.min() < 0.52 and 0.95 < area.max() <= 1.0001
    assert 0.749 < ratio.min() < 0.77 and 1.30 < ratio.max() < 1.334


def test_crops_lie_anywhere_and_half_are_mirror_images(crops):
    assert abs(crops.mirror.float().mean() - 0.5) < 0.04
    assert crops.height.min() > 0  # never upside down
    assert abs(crops.x.mean() - 0.5) < 0.01 and abs(crops.y.mean() - 0.5) < 0.01
    left = (crops.x - crops.width / 2) / (1 - crops.width).clamp(min=1e-6)
    free = crops.width < 0.9
    assert left[free].min() < 0.05 and left[free].max() > 0.95


def test_augmentation_invents_no_value(crops):
    assert torch.allclose(crops.out[:, 2], torch.tensor(0.3), atol=1e-6)
    assert crops.out[:, :2].min() >= 0.5 / 32 - 1e-5 and crops.out[:, :2].max() <= 1 - 0.5 / 32 + 1e-5


def test_augmentation_finds_its_places_in_full_precision():
    images = torch.rand(4, 3, 256, 256)
    torch.manual_seed(5)
    plain = batches.augment(images)
    torch.manual_seed(5)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(batches.augment(images), plain)


def test_augmentation_follows_torchs_seed_and_differs_from_image_to_image():
    images = torch.rand(1, 3, S, S).expand(6, -1, -1, -1).contiguous()
    torch.manual_seed(1)
    first = batches.augment(images)
    torch.manual_seed(1)
    assert torch.equal(batches.augment(images), first)
    assert len({tuple(image.flatten().tolist()) for image in [*first, *batches.augment(images)]}) == 12


# Normalisation


def test_mean_and_std_are_numpys_over_the_members():
    images = torch.randint(0, 256, (700, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images[:, 1] //= 3
    members = torch.arange(0, 700, 2)
    pixels = images[members].numpy().astype(np.float64) / 255
    mean, std = batches.measure_pixels(images, members)
    assert mean == pytest.approx(pixels.mean((0, 2, 3)), abs=1e-6)
    assert std == pytest.approx(pixels.std((0, 2, 3)), abs=1e-6)


def test_a_single_colour_can_be_normalised():
    images = torch.full((4, 3, 8, 8), 77, dtype=torch.uint8)
    mean, std = batches.measure_pixels(images, torch.arange(4))
    assert batches.normalise(images / 255, mean, std).isfinite().all()


def test_normalise_works_channel_by_channel():
    images, mean, std = torch.rand(4, 3, 5, 5), [0.1, 0.2, 0.3], [0.5, 0.25, 2.0]
    out = batches.normalise(images, mean, std)
    for channel in range(3):
        assert torch.allclose(out[:, channel], (images[:, channel] - mean[channel]) / std[channel])
