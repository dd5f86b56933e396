"""The pieces of a training: optimizer, schedule, progress, best epoch. The loop itself is in the scripts."""

import contextlib
import math
import time
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from tqdm import tqdm

from support.system import console, devices, locks, processes, settings
from support.training import batches, checkpoints, history, optimizer, resume

LOOK_SECONDS = 1.0  # between reads of the loss, each of which waits for a GPU


class Run:
    """One training from its first epoch, or from where its resume file stands, to its last; a context manager.

    model: the network; network: the same as training calls it (several processes wrap it); history: a dict per epoch.

        with Run(options, model, device, contents, "validation_loss") as run:
            for epoch in run.epochs():
                for images, labels in run.batches(loader, order):
                    run.step(loss_of(run.network, images, labels))
                run.end_epoch(validate(model))

    contents: of the checkpoint, besides weights and history; score: the metric whose lowest value in validation chooses
    the epoch in `modelfile`; peak_factor: of the peak learning rate. Raises UserError for another run's files, a loss
    that is not finite, a folder in use and a file that cannot be written. On Ctrl-C it says what is saved.
    """

    def __init__(
        self, options: settings.Settings, model: nn.Module, device: torch.device, contents: dict[str, object],
        score: str, peak_factor: float = 1.0,
    ) -> None:  # fmt: skip
        self.options, self.model, self.device, self.contents, self.score = options, model, device, contents, score
        self.modelfile, self.resume_file, self.csv_file, self.curves = resume.paths(options, contents["part"])
        self.peak = options.learning_rate * peak_factor
        self.optimizer = optimizer.make(model, self.peak)
        self.scaler = torch.amp.GradScaler(device.type, enabled=devices.precision(device) == torch.float16)
        self.identity = resume.identity(options, contents)
        self.epoch, self.saved, self.cut = 0, 0, False
        self.start, self.history, self.times, self.best = {}, [], [], 0
        self.ends, self.is_begun, self.ends_here = [options.epochs], False, False

    def __enter__(self) -> "Run":
        with contextlib.ExitStack() as stack:
            if processes.rank() == 0:
                for lock in {file.with_name(f".{file.stem}.lock") for file in (self.csv_file, self.modelfile)}:
                    stack.enter_context(locks.locked(lock, wait=False))
            self._go_on()
            self.stack = stack.pop_all()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        self.stack.close()
        if isinstance(error, KeyboardInterrupt):
            command = "the same command" + " without --fresh" * self.options.fresh
            saved = f"epoch {self.saved}" if self.saved else "what was fitted before it"
            state = f"{saved} is saved; {command} goes on from there" if self.is_begun else "no epoch is saved"
            epoch = f"{self.epoch or self.saved + 1} of {self.options.epochs}"
            raise kind(f"\nStopped in epoch {epoch}: {state}.") from None

    def epochs(self) -> Iterator[int]:
        """The numbers of the epochs left to train; before each, the random seed is set from run, epoch and process."""
        self.network = processes.share_model(self.model, self.device)
        begun, first = time.perf_counter(), self.saved + 1 - self.ends_here
        for epoch in range(first, self.options.epochs + 1):
            self.epoch, self.epoch_begun = epoch, time.perf_counter()
            torch.manual_seed(devices.random_seed(self.options.seed, self.epoch, 1 + processes.rank()))
            yield epoch
            left = (time.perf_counter() - begun) / (epoch - first + 1) * (self.options.epochs - epoch)
            history.say_epoch(self.history[-1], self.options.epochs, self.rate, left, self.note)
        if first <= self.options.epochs:
            history.say_result([self.start, *self.history], self.best, self.score, self.modelfile.name)

    def batches(self, loader: batches.Batches, order: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of an epoch, each full, with a progress bar; sets the learning rate before each of them.

        After the last one the batch-norm statistics are averaged over the processes and the model is in eval mode.
        There are none in an epoch that is trained, but becomes the last one only now.
        """
        if self.ends_here:
            self.row, (self.rate, self.seconds) = self.history.pop(), self.times.pop().values()
            self.model.eval()
            return
        size, count = self.options.batch_size, processes.world_size()
        if len(order) < size:
            size = max(-(-len(order) // count), 2) * count
            if not self.cut:
                console.warn(f"batch_size is {self.options.batch_size}, but an epoch has {len(order)}: cut to {size}")
            self.cut = True
        order = batches.full_batches(order, size)
        self.model.train()
        self.losses, self.steps = torch.zeros((), device=self.device), len(order) // size
        read, read_at = time.perf_counter(), 0
        title, hidden = f"epoch {self.epoch}/{self.options.epochs}", None if processes.rank() == 0 else True
        with tqdm(total=self.steps, desc=title, unit="step", disable=hidden, leave=False) as bar:
            for step, batch in enumerate(loader.batches(order, size), 1):
                rate = self.peak * optimizer.factor_in_epoch(self.epoch, (step - 0.5) / self.steps, self.ends)
                for group in self.optimizer.param_groups:
                    group["lr"] = rate
                yield batch
                if time.perf_counter() - read > LOOK_SECONDS or step == self.steps:
                    loss = self.losses.item() / step
                    if not math.isfinite(loss):
                        raise self._not_finite(f"between steps {read_at + 1} and {step} of {self.steps}")
                    bar.set_postfix(loss=f"{loss:.4g}", refresh=False)
                    bar.update(step - read_at)
                    read, read_at = time.perf_counter(), step
        self.seconds = time.perf_counter() - self.epoch_begun
        self.rate = len(order) / self.seconds
        loss = processes.total(self.losses).item() / self.steps / processes.world_size()
        self.row = {"epoch": self.epoch, "learning_rate": rate, "training_loss": loss}
        processes.average_statistics(self.model)
        self.model.eval()

    def step(self, loss: Tensor) -> None:
        """One step of the optimizer down the gradient of a batch's mean loss."""
        self.scaler.scale(loss).backward()  # float16 alone needs it, so that small gradients do not become 0
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.losses += loss.detach()

    def end_epoch(self, metrics: dict[str, float]) -> None:
        """Add the epoch's metrics to the history, and save: the resume file, and `modelfile` where it is the best."""
        row = self.row | metrics
        stuck = self.scaler.is_enabled() and self.scaler.get_scale() < 1  # no step has had finite gradients
        if stuck or not all(map(math.isfinite, row.values())):
            raise self._not_finite("after its last step")
        earlier = [old[self.score] for old in [self.start, *self.history] if self.score in old]
        if all(row[self.score] < value for value in earlier):
            self.best = self.epoch
        if self.epoch == self.options.epochs:
            self.ends[-1] = self.epoch  # even if more were planned
        self.history.append(row)
        self.times.append({"images_per_second": round(self.rate, 1), "seconds": round(self.seconds, 2)})
        self._save()
        self.note = f"  -> {self.modelfile.name}" if self.best == self.epoch else ""

    def begin(self, metrics: dict[str, float]) -> None:
        """Save a model that is of use before its first epoch; only an epoch with a better score replaces it."""
        self.start = metrics
        self._save()

    def _save(self) -> None:
        weights = self.model.state_dict()  # not a plain dict: MNASNet's version is an attribute of it
        weights.update({name: value.cpu() for name, value in weights.items()})
        if not all(value.isfinite().all() for value in weights.values()):
            raise self._not_finite("after its last step")
        if processes.rank() == 0:  # the resume file first: a checkpoint that is missing can be made from it
            state = {name: getattr(self, name) for name in ("start", "history", "times", "best", "ends")}
            state |= {"run": self.identity, "model": weights, "moments": self.optimizer.state_dict()["state"]}
            resume.write(self.resume_file, state | {"scaler": self.scaler.state_dict()})
        self.saved, self.is_begun = len(self.history), True
        if processes.rank() == 0:
            if self.best == self.saved:
                checkpoints.write(self.modelfile, self.contents, weights, self.history)
            history.write_csv(self.csv_file, self.history, self.times, self.curves)

    def is_finished(self) -> bool:
        """Whether nothing is left to train or draw; says what a trained run reached and how to go on."""
        if not self.is_begun or self.ends_here or self.saved < self.options.epochs:
            return False
        history.say_result([self.start, *self.history], self.best, self.score, self.modelfile.name)
        drawn = processes.from_first(self.curves.exists() or not self.history)
        done = "nothing is changed" if drawn else "the curves are drawn"
        console.say(f"{done}; a larger --epochs trains further, {resume.FRESH}")
        return drawn

    def _not_finite(self, where: str) -> console.UserError:
        rate = self.optimizer.param_groups[0]["lr"]
        return console.UserError(
            f"the loss or the weights are not finite in epoch {self.epoch}, {where}, at learning rate {rate:.3g} "
            f"(peak {self.peak:.3g}); what was saved before stays; try a lower learning_rate and --fresh"
        )

    def _go_on(self) -> None:
        """Load the resume file, if any, and write what a killed run may not have written after it."""
        epochs, where, state = self.options.epochs, console.printable(self.resume_file), None
        if processes.rank() == 0 and not self.options.fresh:  # only the first process needs to see the file
            state = resume.read(self.resume_file, self.modelfile, self.identity, epochs)
        state = processes.from_first(state)
        if state is None:
            return
        resume.restore(state, self.model, self.optimizer, self.scaler, where)
        for name in "start", "history", "times", "best", "ends":
            setattr(self, name, state[name])
        self.saved, self.is_begun = len(self.history), True
        if processes.rank() == 0:
            if not resume.is_kept(self.modelfile, self.history[: self.best]):
                checkpoints.write(self.modelfile, self.contents, state["model"], self.history)
            history.write_csv(self.csv_file, self.history, self.times, self.curves)
        if self.saved < epochs:
            console.say(f"going on after epoch {self.saved} of {epochs}, from {where} ({resume.FRESH})")
        self.ends_here = 0 < self.saved == epochs < self.ends[-1]
        self.ends = resume.plan(self.ends, self.saved, epochs)
