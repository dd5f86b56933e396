"""torchvision's classification networks, and weights to start from."""

import contextlib
import http.client
import os
import re

import torch
from torch import Tensor, nn

from support.system import console, processes
from support.system.console import UserError
from support.training import checkpoints

IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
AUXILIARY = "googlenet", "inception_v3"  # have classifiers beside the last layer, and replace ImageNet's normalization
AUXILIARY_NAMES = "aux1.", "aux2.", "AuxLogits."
FROZEN = 0.35  # share of a pretrained network's parameters, counted as tensors
KEYS = "state_dict", "model_state_dict", "model", "net", "module"  # where checkpoints of other programs hold weights
PREFIX = re.compile(r"(module\.|_orig_mod\.|model\.)*")  # of DataParallel, torch.compile and a Lightning module
# torchvision's DenseNet files name "norm.1.weight" what the network calls "norm1.weight".
OLD_DENSENET = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\.\w+)$")


def names() -> list[str]:
    """The names of torchvision's classification networks."""
    from torchvision import models  # takes a second to import

    return models.list_models(module=models)


def build(architecture: str, image_size: int) -> nn.Module:
    """A network of torchvision without its last layer, with random weights: float [B, 3, S, S] -> features [B, width].

    Raises UserError for a network that does not take S x S images or does not give one vector of features.
    """
    from torchvision import models

    more = {"image_size": image_size} if architecture.startswith("vit_") else {}
    more |= {"aux_logits": False, "init_weights": True} if architecture in AUXILIARY else {}
    try:
        network = models.get_model(architecture, weights=None, **more)
        last = [name for name, module in network.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)][-1]
        network.set_submodule(last, nn.Identity())
        with torch.no_grad():
            features = network.eval()(torch.zeros(1, 3, image_size, image_size))
    except (RuntimeError, ValueError, AssertionError) as error:  # each network has its own way to refuse a size
        if console.is_out_of_memory(error):
            raise
        what = f"{architecture} does not take images of {image_size} pixels a side"
        raise UserError(f"{what}: {console.reason(error)}") from None
    if not isinstance(features, Tensor) or features.ndim != 2:
        raise UserError(f"{architecture} does not give one vector of features, which training needs")
    return network.train()


def normalization(architecture: str) -> tuple[list[float], list[float]]:
    """Mean and standard deviation that torchvision's default weights for a network were trained with."""
    from torchvision import models

    if architecture not in names():
        return IMAGENET
    if architecture in AUXILIARY:
        return [0.5] * 3, [0.5] * 3
    transform = models.get_model_weights(architecture).DEFAULT.transforms()
    return transform.mean, transform.std


def read(architecture: str, source: bool | str) -> dict[str, Tensor]:
    """Part of a state_dict of `wikiart.Classifier`, from torchvision's default weights (True) or a file (its path).

    A file may be a checkpoint of this project, or hold a state_dict of torchvision, with or without a head, as it is or
    in one of the usual wrappings. Raises UserError where the weights are not available.
    """
    source = _download(architecture) if source is True else source
    state, where = checkpoints.load(source), console.quoted(source)
    if isinstance(state, dict) and "part" in state:
        checkpoints.check_version(state, f"{where}: ", "train it again")
        held = state.get("architecture") if state["part"] == 1 else "an autoencoder"
        if held != architecture:
            raise UserError(f"{where} holds {console.shown(held)}, expected {architecture}")
    state = _unwrap(state, where)
    if "normalize.mean" in state:
        return state
    mean, std = map(torch.tensor, normalization(architecture))
    trunk = {"trunk." + OLD_DENSENET.sub(r"\1\2", name): value for name, value in state.items()}
    return {"normalize.mean": mean, "normalize.std": std, **trunk}


def _download(architecture: str) -> str:
    """The path of torchvision's weights in torch.hub's cache; they are downloaded where they are not there."""
    from torchvision import models

    if architecture not in names():
        raise UserError(f"there are no weights to download for {architecture}; expected false or a path")
    url = models.get_model_weights(architecture).DEFAULT.url
    name = os.path.basename(url)
    path = os.path.join(torch.hub.get_dir(), "checkpoints", name)
    try:
        if not os.path.exists(path):
            os.makedirs(os.path.dirname(path), exist_ok=True)
            digest = torch.hub.HASH_REGEX.search(name)[1]
            torch.hub.download_url_to_file(url, path, digest, progress=processes.rank() == 0)
    except (OSError, http.client.HTTPException, RuntimeError) as error:  # the last: of another digest
        raise UserError(f"{url} cannot be downloaded: {console.reason(error)}; a path may be given instead") from None
    return path


def _unwrap(state: object, where: str) -> dict[str, Tensor]:
    """The state_dict in a checkpoint, without the names' prefix; what has none beside names that have is left out."""
    for _ in range(2):
        held = (state[key] for key in KEYS if isinstance(state, dict) and isinstance(state.get(key), dict))
        state = next(held, state)
    if not isinstance(state, dict) or any(type(n) is not str or not isinstance(v, Tensor) for n, v in state.items()):
        raise UserError(f"{where} is not a state_dict, and holds none as {' or '.join(KEYS)}")
    prefix = max((PREFIX.match(name)[0] for name in state), key=len, default="")
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def freeze(network: nn.Module) -> list[nn.Module]:
    """Keep the first `FROZEN` of a network's parameters as they are; returns its batch norms, for eval mode.

    What the first layers see is general, and without them a step takes less than half of the time on a CPU.
    """
    parameters = list(network.parameters())
    for parameter in parameters[: round(FROZEN * len(parameters))]:
        parameter.requires_grad_(False)
    return [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]


def load(network: nn.Module, architecture: str, state: dict[str, Tensor]) -> None:
    """Fill a network without its last layer from a state_dict. Raises UserError where the weights do not fit.

    The position embeddings of a vision transformer are resized to the network's number of patches.
    """
    removed = tuple(f"{name}." for name, module in network.named_modules() if isinstance(module, nn.Identity))
    state = {name: value for name, value in state.items() if not name.startswith((*removed, *AUXILIARY_NAMES))}
    if architecture.startswith("vit_") and "encoder.pos_embedding" in state:
        from torchvision.models.vision_transformer import interpolate_embeddings

        with contextlib.suppress(ValueError):  # of another shape, which is named below
            state = interpolate_embeddings(network.image_size, network.patch_size, state)
    fill(network, state, f"the weights do not fit {architecture}")


def fill(network: nn.Module, state: dict[str, Tensor], what: str) -> None:
    """Fill a network from a state_dict, which need not have `num_batches_tracked`.

    Raises UserError, beginning with `what`, where a tensor is missing, extra, of another shape or not finite.
    """
    complete = network.state_dict()  # and not a plain dict: MNASNet's version is an attribute of it
    for name in [name for name in complete if not name.endswith("num_batches_tracked")]:
        del complete[name]
    complete.update(state)
    try:
        network.load_state_dict(complete)
    except (RuntimeError, TypeError, AttributeError) as error:  # of a damaged state
        if console.is_out_of_memory(error):
            raise
        raise UserError(f"{what}: {console.reason(error)}") from None
    for name, value in network.state_dict().items():
        if not value.isfinite().all():
            raise UserError(f"{what}: {name} holds numbers that are not finite")
