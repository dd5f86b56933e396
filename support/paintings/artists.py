"""Artists by the names of their paintings' files: WikiArt's are artist_title.jpg."""

import os
import re
import unicodedata
from collections.abc import Sequence

import numpy as np

# How cameras, phones and programs begin a file's name, numbers and punctuation aside; "" is a number alone.
NO_ARTIST = re.compile(
    "|(mv|c|fb)?img|imgp|imgwa|images?|dsc[nfp]?|pxl|p|pic|pict|pictures?|photos?|foto|bild|dji|gopr|hpim|mg|wp|fb"
    "|scan|scanned|screenshot|screenshotat|download|unnamed|untitled|file|frame|page|paintings?|artworks?|thumb|wikiart"
)


def artist_of(path: str) -> str | None:
    """What stands before the first underscore of a file's name, in NFC; None for nothing, or a camera's name."""
    artist, underscore, _ = os.path.basename(path).partition("_")
    is_artist = underscore and not NO_ARTIST.fullmatch(re.sub(r"[\W\d]", "", artist).casefold())
    return unicodedata.normalize("NFC", artist) if is_artist else None


def known_artists(paths: Sequence[str]) -> list[str]:
    """The artists of all paths whose names tell one, each once and sorted."""
    return sorted({artist for path in paths if (artist := artist_of(path))})


def by_artist(
    paths: Sequence[str], correct: np.ndarray, training_artists: Sequence[str]
) -> dict[str, dict[str, float | int | None]] | None:
    """Accuracy on paintings of artists that were seen in training and on those of new ones.

    correct: bool [N], for the N paths; training_artists: `known_artists` of the training paintings. Returns "seen" and
    "new" with `images`, `artists` and `accuracy` (None without an image). Returns None where file names do not tell:
    fewer than two training artists, or no artist for half of the paths.
    """
    artists = np.array([artist_of(path) or "" for path in paths])
    named, seen = artists != "", np.isin(artists, training_artists)
    if len(training_artists) < 2 or 2 * named.sum() <= len(paths):
        return None
    groups = {}
    for name, group in (("seen", named & seen), ("new", named & ~seen)):
        accuracy = float(correct[group].mean()) if group.any() else None
        groups[name] = {"images": int(group.sum()), "artists": len(set(artists[group])), "accuracy": accuracy}
    return groups
