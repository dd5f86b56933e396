"""A training from its first epoch, or from where it was interrupted, to its last. The loop itself is in the scripts."""

import contextlib
import math
import shlex
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from support.system import console, devices, locks, plotting, processes, settings
from support.training import checkpoints, history, resume
from support.training.epochs import Epoch, Optimizer, not_finite
from support.training.progress import Progress


class Run:
    """One training; a context manager that holds its output files.

        with Run(options, model, device, metadata, "validation_loss") as run:
            for epoch in run.epochs():
                for images, labels in epoch.batches(loader, order, options.batch_size):
                    epoch.step(loss_of(epoch.network, images, labels))
                run.end_epoch(epoch, validate(model))
            run.finish(panels, title)

    metadata: see `checkpoints.metadata`; score: the metric whose lowest value in validation chooses what `modelfile`
    holds; peak_factor: of the peak learning rate; fits_head: whether a head is fitted after the last epoch.
    Raises UserError for another run's files, a loss that is not finite, a folder in use and a file that cannot be
    written. On Ctrl-C it says what is saved.
    """

    def __init__(
        self, options: settings.Settings, model: nn.Module, device: torch.device, metadata: dict[str, object],
        score: str, peak_factor: float = 1.0, fits_head: bool = False,
    ) -> None:  # fmt: skip
        self.options, self.model, self.device, self.metadata = options, model, device, metadata
        self.score, self.peak, self.fits_head = score, options.learning_rate * peak_factor, fits_head
        self.paths = resume.paths(options, metadata["part"])
        self.optimizer = Optimizer(model, device)
        self.identity = resume.identity(options, metadata, model)
        self.progress = Progress([options.epochs])
        self.begun, self.stack = time.perf_counter(), contextlib.ExitStack()

    def __enter__(self) -> "Run":
        with contextlib.ExitStack() as stack:
            if processes.rank() == 0:
                for path in {
                    path.with_name(f".{path.stem}.lock") for path in (self.paths.csv_file, self.paths.modelfile)
                }:
                    stack.enter_context(locks.locked(path, wait=False))
            self._go_on()
            self.stack = stack.pop_all()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        self.stack.close()
        if isinstance(error, KeyboardInterrupt):
            done, count = self.progress.done(), self.options.epochs
            command = "the same command" + " without --fresh" * self.options.fresh
            saved = f"epoch {done}" if done else "what was fitted before it"
            state = f"{saved} is saved; {command} goes on from there" if self.progress.rows else "no epoch is saved"
            raise kind(f"\nStopped in epoch {min(done + 1, count)} of {count}: {state}.") from None

    def epochs(self) -> Iterator[Epoch]:
        """The epochs left to train; before each, the random seed is set from run, epoch and process."""
        first, count, begun = self.progress.done() + 1, self.options.epochs, time.perf_counter()
        network = processes.share_model(self.model, self.device) if first <= count else self.model
        for number in range(first, count + 1):
            torch.manual_seed(devices.random_seed(self.options.seed, number, 1 + processes.rank()))
            yield Epoch(number, count, network, self.optimizer, self.device, self.peak, self.progress.ends)
            left = (time.perf_counter() - begun) / (number - first + 1) * (count - number)
            self._say(f"epoch {number}/{count}", f"  {self._rate()}  {history.clock(left)} left")

    def end_epoch(self, epoch: Epoch, metrics: dict[str, float]) -> None:
        """Add an epoch to the history, and save: the resume file, and `modelfile` where it is the best so far."""
        if epoch.number == self.options.epochs:
            self.progress.ends[-1] = epoch.number  # even if more were planned
        time = {"images_per_second": round(epoch.paintings / epoch.seconds, 1), "seconds": round(epoch.seconds, 2)}
        self._add({"epoch": epoch.number, "kind": "epoch", **epoch.metrics(), **metrics}, time)

    def add(self, kind: str, metrics: dict[str, float], words: str) -> None:
        """Add what was fitted, a "start" or a "fitted" head, to the history, save it, and print it after `words`."""
        self._add({"epoch": self.progress.done(), "kind": kind, **metrics}, {})
        self._say(words)

    def is_fit_due(self) -> bool:
        """Whether the head is to be fitted now, after the last epoch."""
        rows, all_done = self.progress.rows, self.progress.done() >= self.options.epochs
        return self.fits_head and all_done and bool(rows) and rows[-1]["kind"] == "epoch"

    def is_finished(self) -> bool:
        """Whether nothing is left to train, fit or draw; says what the run reached and how to go on."""
        if not self.progress.rows or self.progress.done() < self.options.epochs or self.is_fit_due():
            return False
        drawn = processes.from_first(self.paths.curves.exists() or not self.progress.done())
        if drawn:
            history.say_result(self.progress, self.score, self.paths.modelfile.name)
            console.say(f"nothing is changed; a larger --epochs trains further, {resume.FRESH}")
        return drawn

    def finish(self, panels: dict[str, dict[str, str]], title: str) -> None:
        """Draw the curves; print what the run reached, what it took, which files hold it, and what to run next."""
        curves = str(Path(self.options.modelfile).with_name(self.paths.curves.name))
        if self.progress.done():
            plotting.write_all(self.options, {curves: lambda: history.draw(self.progress.rows, panels, title)})
        history.say_result(self.progress, self.score, self.paths.modelfile.name)
        memory, gpu = devices.peak_memory(self.device) / 2**30, "GPU " * (self.device.type == "cuda")
        files = ", ".join(path.name for path in self.paths if path.exists())
        given = [("outputdir", self.options.outputdir), ("modelfile", self.options.modelfile)]
        flags = "".join(f" --{name} {shlex.quote(value)}" for name, value in given if name in self.options.flags)
        script = {1: "testtrainpart1.py", 2: "testtrainauto.py"}[self.metadata["part"]]
        took = [
            f"{history.clock(time.perf_counter() - self.begun)} minutes",
            self._rate(),
            f"{gpu}memory {memory:.1f} GiB",
        ]
        where = f"{files} in {self.paths.modelfile.parent}"
        console.say(f"{', '.join(filter(None, took))}; {where}; next: python {script}{flags}")

    def _rate(self) -> str:
        rates = [time["images_per_second"] for time in self.progress.times if time]
        return f"{rates[-1]:,.0f} paintings/s" if rates else ""

    def _say(self, words: str, more: str = "") -> None:
        """Print the newest row."""
        row, kept = self.progress.rows[-1], self.progress.best == len(self.progress.rows) - 1
        console.say(f"{words}  {history.in_words(row)}{more}{f'  -> {self.paths.modelfile.name}' if kept else ''}")

    def _add(self, row: dict[str, object], time: dict[str, float]) -> None:
        finite = all(math.isfinite(value) for value in row.values() if not isinstance(value, str))
        if not finite or self.optimizer.is_stuck():
            raise self._not_finite(row)
        progress = self.progress.plus(row, time, self.score)
        weights = self.model.state_dict()  # not a plain dict: MNASNet's version is an attribute of it
        weights.update({name: value.cpu() for name, value in weights.items()})
        if not all(value.isfinite().all() for value in weights.values()):
            raise self._not_finite(row)
        if processes.rank() == 0:  # the resume file first: a checkpoint that is missing can be made from it
            resume.write(self.paths.resume_file, self.identity, progress, weights, self.optimizer)
        self.progress = progress
        if processes.rank() == 0:
            self._write_rest(weights)

    def _not_finite(self, row: dict[str, object]) -> console.UserError:
        return not_finite(row["epoch"], "after its last step", row.get("learning_rate", 0.0), self.peak)

    def _write_rest(self, weights: dict[str, Tensor]) -> None:
        """Write what is not there yet: `modelfile` where the newest row is its, and the CSV file."""
        progress, kept = self.progress, self.progress.rows[: self.progress.best + 1]
        if progress.best == len(progress.rows) - 1 and not resume.is_kept(self.paths.modelfile, kept):
            checkpoints.write(self.paths.modelfile, self.metadata, weights, kept)
        history.write_csv(self.paths.csv_file, progress.rows, progress.times, self.paths.curves)

    def _go_on(self) -> None:
        """Load the resume file, if any, and write what a killed run may not have written after it."""
        count, state = self.options.epochs, None
        where = console.printable(self.paths.resume_file)
        if processes.rank() == 0 and not self.options.fresh:  # only the first process needs to see the file
            state = resume.read(self.paths, self.identity, count)
        state = processes.from_first(state)
        if state is None:
            return
        self.progress = resume.restore(state, self.model, self.optimizer, where)
        if processes.rank() == 0:
            self._write_rest(state["model"])
        done = self.progress.done()
        if done < count or self.is_fit_due():
            console.say(f"going on after epoch {done} of {count}, from {where} ({resume.FRESH})")
        self.progress.ends = resume.plan(self.progress.ends, done, count)
