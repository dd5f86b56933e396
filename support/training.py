"""Training: optimizer, schedule, progress, best epoch, resume."""

import hashlib
import json
import math
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from support import batches, checkpoints, console, devices, files, processes, settings


def head_of(network: nn.Module) -> str:
    """The name of a classifier's last layer with weights: the one that is sized to the styles."""
    return [name for name, module in network.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)][-1]


WARM_UP = 0.15  # share of all steps in which the learning rate rises to its peak


WEIGHT_DECAY = 0.05


LOOK_SECONDS = 1.0  # between looks at the loss, each of which waits for a GPU


def learning_rate_factor(progress: float) -> float:
    """Share of the peak learning rate at `progress` (0 to 1) through training: linear rise, then half a cosine."""
    if progress < WARM_UP:
        return progress / WARM_UP
    return 0.5 * (1 + math.cos(math.pi * (progress - WARM_UP) / (1 - WARM_UP)))


def make_optimizer(model: nn.Module, learning_rate: float, trunk_factor: float = 1.0) -> torch.optim.AdamW:
    """AdamW in one fused kernel; vectors (biases, norms) do not decay; all but the head learn at `trunk_factor`."""
    head = head_of(model) + "."
    groups = {}
    for name, parameter in model.named_parameters():
        rate = learning_rate * (1.0 if name.startswith(head) else trunk_factor)
        groups.setdefault((rate, WEIGHT_DECAY if parameter.ndim > 1 else 0.0), []).append(parameter)
    groups = [{"params": p, "lr": rate, "peak": rate, "weight_decay": decay} for (rate, decay), p in groups.items()]
    return torch.optim.AdamW(groups, fused=True)


def train_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss_of: Callable[[nn.Module, Tensor, Tensor], Tensor],
    images: Tensor,
    labels: Tensor,
) -> Tensor:
    """One step of the optimizer on one batch; returns the loss, still on the device."""
    with devices.autocast(images.device):
        loss = loss_of(model, images, labels)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.detach()


def train(
    options: settings.Settings,
    part: int,
    facts: dict[str, object],
    model: nn.Module,
    paintings: batches.Paintings,
    order_of: Callable[[int], Tensor],
    loss_of: Callable[[nn.Module, Tensor, Tensor], Tensor],
    validate: Callable[[nn.Module], dict[str, float]],
    score: str,
    trunk_factor: float = 1.0,
) -> list[dict[str, float]]:
    """Train `model`, keep the best epoch in `modelfile` and a resume file beside it, and return the history.

    facts: what the checkpoint holds beside the weights; order_of(epoch): that epoch's indices; loss_of(model, images,
    labels): the loss of a batch in [0, 1]; validate(model): the validation figures (empty where nothing is held out);
    score: the figure that chooses the best epoch, "macro_f1" (more is better) or "validation_mse" (less is better).

    Goes on from the resume file of an interrupted run with the same settings on the same data. Raises UserError for
    a resume file of another run, a loss that is not finite and a file that cannot be written; KeyboardInterrupt, with
    a line on what is saved, on Ctrl-C.
    """
    modelfile = options.output(options.modelfile)
    resume_file = modelfile.with_name(f"{modelfile.stem}.resume.pth")
    run = _run_identity(options, facts)
    optimizer = make_optimizer(model, options.learning_rate, trunk_factor)
    history = _resume(resume_file, modelfile, run, model, optimizer, options.fresh)
    distributed = model
    if processes.world_size() > 1:
        for buffer in model.buffers():  # DistributedDataParallel gives all processes the first one's parameters alone
            torch.distributed.broadcast(buffer, 0)
        ids = [paintings.device] if paintings.device.type == "cuda" else None
        with warnings.catch_warnings():  # newer versions of torch call broadcast_buffers something else
            warnings.simplefilter("ignore", FutureWarning)
            distributed = nn.parallel.DistributedDataParallel(
                model, device_ids=ids, broadcast_buffers=False, gradient_as_bucket_view=True
            )
    sign = 1 if score == "macro_f1" else -1
    begun, first_epoch, saved = time.perf_counter(), len(history) + 1, len(history)
    for epoch in range(first_epoch, options.epochs + 1):
        try:
            epoch_begun = time.perf_counter()
            # Every random number of an epoch follows from seed, epoch and process: to resume needs no stored states.
            torch.manual_seed(devices.random_seed(options.seed, epoch, 1 + processes.rank()))
            order = full_batches(order_of(epoch), options.batch_size)
            loss = train_epoch(options, distributed, optimizer, paintings, order, loss_of, epoch)
            speed = len(order) / (time.perf_counter() - epoch_begun)
            share_buffers(model)
            model.eval()
            row = {"epoch": epoch, "training_loss": loss, **validate(model)}
            history.append(row)
            best = score not in row or all(
                sign * row[score] > sign * old[score] for old in history[:-1] if score in old
            )
            weights = {name: value.detach().cpu() for name, value in model.state_dict().items()}
            if not all(map(math.isfinite, row.values())) or not all(map(checkpoints.is_plain, weights.values())):
                raise _not_finite(f"in epoch {epoch}, after its last step", optimizer)
            if processes.rank() == 0:
                state = {"run": run, "model": weights, "moments": optimizer.state_dict()["state"], "history": history}
                if best:
                    checkpoint = {"part": part, "model": weights, **facts, "epoch": epoch, "history": history}
                    files.write_tensors(modelfile, checkpoint)
                files.write_tensors(resume_file, state)
            saved = epoch
            left = (time.perf_counter() - begun) / (epoch - first_epoch + 1) * (options.epochs - epoch)
            say_epoch(row, options.epochs, speed, left, f"  -> {modelfile.name}" if best else "")
        except KeyboardInterrupt:
            command = "the same command without --fresh" if options.fresh else "the same command"
            stand = f"epoch {saved} is saved; {command} goes on from there" if saved else "no epoch is saved yet"
            raise KeyboardInterrupt(f"\nStopped in epoch {epoch} of {options.epochs}: {stand}.") from None
    if processes.rank() == 0:
        resume_file.unlink(missing_ok=True)
    return history


def full_batches(order: Tensor, batch_size: int) -> Tensor:
    """`order`, filled up from its own start so that every batch is full: no painting is missed, every step alike."""
    return order.repeat(-(-batch_size // len(order)) + 1)[: -(-len(order) // batch_size) * batch_size]


def train_epoch(
    options: settings.Settings,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    paintings: batches.Paintings,
    order: Tensor,
    loss_of: Callable[[nn.Module, Tensor, Tensor], Tensor],
    epoch: int,
) -> float:
    """One epoch over `order`; returns the mean loss over all processes. Raises UserError when it is not finite."""
    model.train()
    steps = len(order) // options.batch_size
    losses = torch.zeros((), device=paintings.device)
    looked, looked_at = time.perf_counter(), 0

    def look(step: int) -> float:
        mean = losses.item() / step
        if not math.isfinite(mean):
            raise _not_finite(f"in epoch {epoch}, between steps {looked_at + 1} and {step} of {steps}", optimizer)
        return mean

    title = f"epoch {epoch}/{options.epochs}"
    with tqdm(
        total=steps, desc=title, unit="step", disable=None if processes.rank() == 0 else True, leave=False
    ) as bar:
        for step, (images, labels) in enumerate(paintings.batches(order, options.batch_size), 1):
            progress = (epoch - 1 + step / steps) / options.epochs
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * learning_rate_factor(progress)
            losses += train_step(model, optimizer, loss_of, images, labels)
            if time.perf_counter() - looked > LOOK_SECONDS:
                bar.set_postfix(loss=f"{look(step):.4g}", refresh=False)
                bar.update(step - looked_at)
                looked, looked_at = time.perf_counter(), step
        look(steps)
    return processes.total(losses).item() / steps / processes.world_size()


def _not_finite(where: str, optimizer: torch.optim.Optimizer) -> console.UserError:
    rate, peak = (max(group[name] for group in optimizer.param_groups) for name in ("lr", "peak"))
    return console.UserError(
        f"the loss or the weights are not finite {where}, at learning rate {rate:.3g} (peak {peak:.3g}); "
        "what was saved before stands; try a lower learning_rate and --fresh"
    )


def share_buffers(model: nn.Module) -> None:
    """Give all processes the mean of their running statistics, so that all of them measure the same network."""
    for name, buffer in model.named_buffers():
        if processes.world_size() > 1 and name.endswith(("running_mean", "running_var")):
            processes.total(buffer).div_(processes.world_size())


def say_epoch(row: dict[str, float], epochs: int, speed: float, left: float, saved: str) -> None:
    figures = "  ".join(
        f"{name.replace('_', ' ')} {value:.1%}"
        if name in ("accuracy", "macro_f1")
        else f"{name.replace('_', ' ')} {value:.4g}"
        for name, value in row.items()
        if name != "epoch"
    )
    clock = f"{int(left) // 60}:{int(left) % 60:02d}"
    console.say(f"epoch {row['epoch']}/{epochs}  {figures}  {speed:,.0f} paintings/s  {clock} left{saved}")


# What a run may change and still be the same run.
_FREE_TO_CHANGE = {"trainingdir", "testingdir", "outputdir", "cachedir", "device", "modelfile", "clusters"}


def _run_identity(options: settings.Settings, facts: dict[str, object]) -> dict[str, object]:
    """What has to be the same for a run to go on: all settings that shape the result, and the paintings."""
    known = settings.SHARED_SETTINGS | settings.SECTIONS[options.section]
    identity = {name: getattr(options, name) for name in known if name not in _FREE_TO_CHANGE}
    content = facts["fingerprints"].numpy().tobytes() + json.dumps(facts["counts"]).encode()
    return identity | {"paintings": hashlib.sha256(content).hexdigest()[:16]}


def _resume(
    resume_file: Path,
    modelfile: Path,
    run: dict[str, object],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    fresh: bool,
) -> list[dict[str, float]]:
    """Load an interrupted run's state into model and optimizer; returns its history, empty where a run begins."""
    state = None
    if processes.rank() == 0 and not fresh and os.path.exists(resume_file):
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        state = _load_resume(resume_file, modelfile, run, parameters)
    if processes.world_size() > 1:  # only the first process need see the file
        received = [state]
        torch.distributed.broadcast_object_list(received)
        state = received[0]
    if state is None:
        return []
    where = console.quoted(resume_file)[1:-1]
    try:
        model.load_state_dict(state["model"])
        groups = optimizer.state_dict()["param_groups"]  # all in them follows from the settings
        optimizer.load_state_dict({"state": state["moments"], "param_groups": groups})
    except (RuntimeError, ValueError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise console.UserError(f"{where}: is damaged: {reason}; --fresh starts anew") from None
    history = state["history"]
    console.say(f"going on after epoch {len(history)} of {run['epochs']}, as {where} has it (--fresh starts anew)")
    return history


def _load_resume(
    resume_file: Path, modelfile: Path, run: dict[str, object], parameters: list[Tensor]
) -> dict[str, object]:
    where = console.quoted(resume_file)[1:-1]
    try:
        state = checkpoints.load(resume_file)
    except console.UserError as error:
        raise console.UserError(f"{error}; --fresh starts anew") from None
    kinds = {"run": dict, "model": dict, "moments": dict, "history": list}
    if not isinstance(state, dict) or not all(isinstance(state.get(key), kind) for key, kind in kinds.items()):
        raise console.UserError(f"{where}: is no resume file; --fresh starts anew")
    differences = [
        f"{name} was {console.shown(state['run'].get(name))} and is {console.shown(value)}"
        for name, value in run.items()
        if type(state["run"].get(name)) is not type(value) or state["run"][name] != value
    ]
    if differences:
        raise console.UserError(f"{where}: belongs to another run: {'; '.join(differences)}; --fresh starts anew")
    if not os.path.exists(modelfile):
        raise console.UserError(
            f"{console.quoted(modelfile)[1:-1]}: the interrupted run's best epoch is gone; --fresh starts anew"
        )
    if not _is_sound_resume(state, parameters) or len(state["history"]) > run["epochs"]:
        raise console.UserError(f"{where}: is damaged: its values are not what a training writes; --fresh starts anew")
    return state


def _is_sound_resume(state: dict[str, object], parameters: list[Tensor]) -> bool:
    rows, moments = state["history"], state["moments"]
    numbers = range(len(parameters))
    return (
        all(isinstance(row, dict) and row.keys() == rows[0].keys() for row in rows)
        and all(type(value) in (int, float) and math.isfinite(value) for row in rows for value in row.values())
        and [row.get("epoch") for row in rows] == list(range(1, len(rows) + 1))
        and all(type(i) is int and i in numbers and isinstance(moments[i], dict) for i in moments)
        and all(
            checkpoints.is_plain(value) for values in [state["model"], *moments.values()] for value in values.values()
        )
        and all(
            {name: value.shape for name, value in moments[i].items()}
            == {"step": (), "exp_avg": parameters[i].shape, "exp_avg_sq": parameters[i].shape}
            for i in moments
        )
    )
