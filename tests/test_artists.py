"""Artists by file names, and accuracy on artists that training has seen and has not."""

import numpy as np

from support import artists


def test_the_artist_stands_before_the_first_underscore():
    assert artists.artist_of("Fauvism/henri-matisse_the-dance_1910.jpg") == "henri-matisse"
    assert artists.artist_of("some_folder/untitled.jpg") is artists.artist_of("a/_title.jpg") is None
    assert artists.artist_of("a/E\u0301douard_1.jpg") == artists.artist_of("b/\u00c9douard_2.jpg")  # NFD and NFC
    assert artists.known_artists(["x/b_1.jpg", "y/a_1.jpg", "x/b_2.jpg", "x/none.jpg"]) == ["a", "b"]


def test_accuracy_by_artist_equals_counting():
    random = np.random.default_rng(0)
    names = [f"Style/artist{n}_{i}.jpg" for i, n in enumerate(random.integers(0, 9, 100))] + ["Style/nameless.jpg"]
    correct, known = random.random(101) < 0.6, [f"artist{n}" for n in range(4)]
    found = artists.by_artist(names, correct, known)
    for group, is_in in (("seen", range(4)), ("new", range(4, 9))):
        right = [c for n, c in zip(names, correct, strict=True) if any(f"/artist{k}_" in n for k in is_in)]
        assert found[group] == {"images": len(right), "artists": len(is_in), "accuracy": sum(right) / len(right)}


def test_names_that_do_not_tell():
    right = np.ones(2, dtype=bool)
    assert artists.by_artist(["s/a_1.jpg", "s/b_1.jpg"], right, ["a"]) is None  # as the sample: all are "painted"
    assert artists.by_artist(["s/1.jpg", "s/a_2.jpg"], right, ["a", "b"]) is None
    assert artists.by_artist(["s/a_1.jpg", "s/a_2.jpg"], right, ["a", "b"])["new"]["accuracy"] is None
