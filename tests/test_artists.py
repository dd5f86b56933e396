"""Artists by file names, and accuracy on artists that training has seen and has not."""

import numpy as np
import pytest

from support.paintings import artists


def test_the_artist_stands_before_the_first_underscore():
    assert artists.artist_of("Fauvism/henri-matisse_the-dance_1910.jpg") == "henri-matisse"
    assert artists.artist_of("some_folder/untitled.jpg") is artists.artist_of("a/_title.jpg") is None
    assert artists.artist_of("a/E\u0301douard_1.jpg") == artists.artist_of("b/\u00c9douard_2.jpg")  # NFD and NFC
    assert artists.known_artists(["x/b_1.jpg", "y/a_1.jpg", "x/b_2.jpg", "x/none.jpg"]) == ["a", "b"]


@pytest.mark.parametrize("name", [
    "IMG_1", "img_20240102_101112", "IMG-20240102-WA0001_2", "DSC_0042", "DSCF0001_1", "PXL_20240102_1", "P1010001_2",
    "Image (3)_1", "photo_5", "Screen Shot 2024-01-02 at 10.11.12_1", "wikiart_12", "2024-01-02_5", "-_1",
])  # fmt: skip
def test_names_of_cameras_and_exports_are_no_artists(name):
    assert artists.artist_of(f"Cubism/{name}.jpg") is None


@pytest.mark.parametrize("artist", ["vincent-van-gogh", "m.c.-escher", "p-klee", "erro", "浮世絵", "artist3"])
def test_artists_keep_their_names(artist):
    assert artists.artist_of(f"Cubism/{artist}_1.jpg") == artist


def test_accuracy_by_artist_equals_counting():
    random = np.random.default_rng(0)
    names = [f"Style/artist{n}_{i}.jpg" for i, n in enumerate(random.integers(0, 9, 100))] + ["Style/nameless.jpg"]
    correct, known = random.random(101) < 0.6, [f"artist{n}" for n in range(4)]
    groups = artists.by_artist(names, correct, known)
    for group, is_in in (("seen", range(4)), ("new", range(4, 9))):
        right = [c for n, c in zip(names, correct, strict=True) if any(f"/artist{k}_" in n for k in is_in)]
        assert groups[group] == {"images": len(right), "artists": len(is_in), "accuracy": sum(right) / len(right)}


def test_names_that_do_not_tell():
    right = np.ones(2, dtype=bool)
    assert artists.by_artist(["s/a_1.jpg", "s/b_1.jpg"], right, ["a"]) is None  # as the sample: all are "painted"
    assert artists.by_artist(["s/1.jpg", "s/a_2.jpg"], right, ["a", "b"]) is None
    assert artists.by_artist(["s/a_1.jpg", "s/a_2.jpg"], right, ["a", "b"])["new"]["accuracy"] is None
