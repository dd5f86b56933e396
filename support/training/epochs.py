"""One epoch of training: its batches, the steps of the optimizer, the learning rate of each step."""

import itertools
import math
import time
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from tqdm import tqdm

from support.system import console, devices, processes
from support.training import batches

WARM_UP = 0.15  # share of a schedule's steps in which the learning rate rises to its peak
WEIGHT_DECAY = 0.05
NO_DECAY = ("pos_embedding", "class_token", "layer_scale", "relative_position_bias_table", "logit_scale")
LOOK_SECONDS = 1.0  # between reads of the loss, each of which waits for a GPU


def learning_rate(peak: float, position: float, ends: list[int]) -> float:
    """The learning rate at a position in epochs from the start: 2.5 is the middle of the third epoch.

    ends: the last epoch of each schedule. A schedule rises linearly to the peak over its first `WARM_UP`, and falls to
    zero as half a cosine.
    """
    begin, end = next((begin, end) for begin, end in itertools.pairwise([0, *ends]) if position < end)
    progress = (position - begin) / (end - begin)
    if progress < WARM_UP:
        return peak * progress / WARM_UP
    return peak * 0.5 * (1 + math.cos(math.pi * (progress - WARM_UP) / (1 - WARM_UP)))


class Optimizer:
    """AdamW for what learns in a model, with the scale of gradients that float16 needs.

    Weights of layers decay; biases, norms and embeddings do not.
    """

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        groups = {WEIGHT_DECAY: [], 0.0: []}
        for name, parameter in model.named_parameters():
            decays = parameter.ndim > 1 and not any(part in name for part in NO_DECAY)
            if parameter.requires_grad:
                groups[WEIGHT_DECAY if decays else 0.0].append(parameter)
        groups = [{"params": parameters, "weight_decay": decay} for decay, parameters in groups.items() if parameters]
        self.adamw = torch.optim.AdamW(groups, fused=True)
        self.scaler = torch.amp.GradScaler(device.type, enabled=devices.precision(device) == torch.float16)

    def step(self, loss: Tensor, rate: float) -> None:
        """One step down the gradient of a loss."""
        for group in self.adamw.param_groups:
            group["lr"] = rate
        self.scaler.scale(loss).backward()  # float16 alone needs it, so that small gradients do not become 0
        self.scaler.step(self.adamw)
        self.scaler.update()
        self.adamw.zero_grad(set_to_none=True)

    def is_stuck(self) -> bool:
        """Whether no step has had finite gradients for long."""
        return self.scaler.is_enabled() and self.scaler.get_scale() < 1

    def state_dict(self) -> dict[str, object]:
        """What a resumed run needs; the settings of AdamW follow from the code."""
        return {"moments": self.adamw.state_dict()["state"], "scaler": self.scaler.state_dict()}

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Go on from a state. Raises ValueError, or what torch raises, where it is not of the same weights."""
        groups = self.adamw.state_dict()["param_groups"]
        self.adamw.load_state_dict({"state": state["moments"], "param_groups": groups})
        for parameter, moments in self.adamw.state.items():
            if any(moments[name].shape != parameter.shape for name in ("exp_avg", "exp_avg_sq")):
                raise ValueError("the optimizer's moments have other shapes than the weights")
        if state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])


class Epoch:
    """One pass over the training paintings: owns its losses, steps and learning rate.

    number: of the epoch, from 1; count: of all epochs; network: the model as training calls it (several processes wrap
    it); peak, ends: see `learning_rate`.
    """

    def __init__(
        self, number: int, count: int, network: nn.Module, optimizer: Optimizer, device: torch.device, peak: float,
        ends: list[int],
    ) -> None:  # fmt: skip
        self.number, self.count, self.network, self.optimizer = number, count, network, optimizer
        self.peak, self.ends, self.rate = peak, ends, 0.0
        self.losses = torch.zeros((), device=device)  # their sum
        self.steps, self.paintings, self.begun, self.seconds = 0, 0, time.perf_counter(), 0.0

    def batches(self, loader: batches.Batches, order: Tensor, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of an order of paintings, each full, with a progress bar; sets the learning rate before each.

        The network is in train mode, and after the last batch in eval mode, with the mean of all processes' batch-norm
        statistics. With fewer paintings than `batch_size`, that is cut. Raises UserError when a loss is not finite.
        """
        if len(order) < batch_size:
            given, count = batch_size, processes.world_size()
            batch_size = max(-(-len(order) // count), 2) * count
            if self.number == 1:
                console.warn(f"batch_size is {given}, but an epoch has {len(order)}: cut to {batch_size}")
        order = batches.full_batches(order, batch_size)
        self.paintings, steps, read, read_at = len(order), len(order) // batch_size, time.perf_counter(), 0
        hidden = None if processes.rank() == 0 else True
        self.network.train()
        with tqdm(
            total=steps, desc=f"epoch {self.number}/{self.count}", unit="step", disable=hidden, leave=False
        ) as bar:
            for step, batch in enumerate(loader.batches(order, batch_size), 1):
                self.rate = learning_rate(self.peak, self.number - 1 + (step - 0.5) / steps, self.ends)
                yield batch
                if time.perf_counter() - read > LOOK_SECONDS or step == steps:
                    loss = self.losses.item() / step
                    if not math.isfinite(loss):
                        where = f"between steps {read_at + 1} and {step} of {steps}"
                        raise not_finite(self.number, where, self.rate, self.peak)
                    bar.set_postfix(loss=f"{loss:.4g}", refresh=False)
                    bar.update(step - read_at)
                    read, read_at = time.perf_counter(), step
        self.seconds = time.perf_counter() - self.begun
        processes.average_statistics(self.network)
        self.network.eval()

    def step(self, loss: Tensor) -> None:
        """One step of the optimizer down the gradient of a batch's mean loss."""
        self.optimizer.step(loss, self.rate)
        self.losses += loss.detach()
        self.steps += 1

    def metrics(self) -> dict[str, float]:
        """Learning rate of the last step, and mean loss over steps and processes."""
        mean = processes.total(self.losses / self.steps).item() / processes.world_size()
        return {"learning_rate": self.rate, "training_loss": mean}


def not_finite(epoch: int, where: str, rate: float, peak: float) -> console.UserError:
    """The error for a loss or weights that are not finite; where: in the epoch they were seen; rate: then."""
    return console.UserError(
        f"the loss or the weights are not finite in epoch {epoch}, {where}, at learning rate {rate:.3g} "
        f"(peak {peak:.3g}); what was saved before stays; try a lower learning_rate and --fresh"
    )
