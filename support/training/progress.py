"""How far a training has come: what was measured so far, and what of it is kept."""

import dataclasses
from collections import Counter


@dataclasses.dataclass
class Progress:
    """What a resume file holds besides weights and optimizer.

    ends: the last epoch of each schedule of the learning rate. rows: what was measured, in order, each with the `epoch`
    after which it was (0: before training) and its `kind`: "epoch", or what was fitted, "start" or "fitted" (a head).
    times: for each row, paintings per second and seconds of an epoch, else nothing. best: the row whose weights
    `modelfile` holds, -1 for none.
    """

    ends: list[int]
    rows: list[dict[str, object]] = dataclasses.field(default_factory=list)
    times: list[dict[str, float]] = dataclasses.field(default_factory=list)
    best: int = -1

    def done(self) -> int:
        """The number of epochs trained."""
        return self.rows[-1]["epoch"] if self.rows else 0

    def plus(self, row: dict[str, object], time: dict[str, float], score: str) -> "Progress":
        """With one more row; it is the best if no other's `score` is as low, or if nothing is held out to choose by."""
        is_best = all(row[score] < old[score] for old in self.rows if score in old)
        best = len(self.rows) if is_best else self.best
        return Progress(self.ends, [*self.rows, row], [*self.times, time], best)


def progress_in(state: dict[str, object]) -> Progress | None:
    """The progress that a resume file holds; None for a damaged one, or one without a row."""
    try:
        progress = Progress(**state)
        numbers = [*progress.ends, progress.best]
        numbers += [value for row in [*progress.rows, *progress.times] for value in (row | {"kind": 0}).values()]
        kinds = Counter(row["kind"] for row in progress.rows)
        whole = (
            all(isinstance(number, int | float) for number in numbers)
            and [row["epoch"] for row in progress.rows if row["kind"] == "epoch"] == list(range(1, kinds["epoch"] + 1))
            and kinds["epoch"] == progress.done() <= progress.ends[-1]
            and 0 <= progress.best < len(progress.rows) == len(progress.times)
        )
    except (TypeError, LookupError):
        return None
    return progress if whole else None
