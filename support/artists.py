"""Artists by the names of their paintings' files: WikiArt's are artist_title.jpg."""

import os
import unicodedata
from collections.abc import Sequence

import numpy as np


def artist_of(path: str) -> str:
    """What stands before the first underscore of a file's name, in NFC; the whole path where there is none."""
    name = os.path.basename(path)
    return unicodedata.normalize("NFC", name.split("_")[0]) if is_named(path) else path


def is_named(path: str) -> bool:
    """Whether a file's name begins with an artist and an underscore."""
    return os.path.basename(path).find("_") > 0


def known_artists(paths: Sequence[str]) -> list[str]:
    """The artists whom file names tell, each once and sorted."""
    return sorted({artist_of(path) for path in paths if is_named(path)})


def by_artist(
    paths: Sequence[str], correct: np.ndarray, training_artists: Sequence[str]
) -> dict[str, dict[str, float | int | None]] | None:
    """Accuracy on paintings of artists that training has seen and has not: what a network knows beside the artist.

    correct: bool [N], for the N paths; training_artists: `known_artists` of the training paintings. Returns "seen" and
    "new" with `images`, `artists` and `accuracy` (None without an image); None where names do not tell: fewer than
    two training artists, or most of the test paintings without an artist's name, which are left out otherwise.
    """
    named = np.array([is_named(path) for path in paths], dtype=bool)
    if len(training_artists) < 2 or 2 * named.sum() <= len(paths):
        return None
    known = set(training_artists)
    seen = np.array([artist_of(path) in known for path in paths], dtype=bool)
    groups = {"seen": named & seen, "new": named & ~seen}
    return {
        name: {
            "images": int(chosen.sum()),
            "artists": len({artist_of(path) for path, is_in in zip(paths, chosen, strict=True) if is_in}),
            "accuracy": float(np.mean(correct[chosen])) if chosen.any() else None,
        }
        for name, chosen in groups.items()
    }
