"""torchvision's classification networks, and weights to start from."""

import contextlib
import http.client
import os
import re
import warnings

import torch
from torch import Tensor, nn

from support.system import console, processes
from support.system.console import UserError
from support.training import checkpoints

IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
AUXILIARY = {"aux_logits": False, "init_weights": True}  # GoogLeNet and Inception give plain logits without their own
FROZEN = 0.35  # share of a pretrained network's parameters, counted as tensors
AUXILIARY_NAMES = ("aux1.", "aux2.", "AuxLogits.")
# Where the checkpoints of other programs hold a state_dict, and what stands before its names where the network was
# wrapped: by DataParallel, by torch.compile, or as a member of a Lightning module.
KEYS = "state_dict", "model_state_dict", "model", "net", "module"
PREFIXES = "module.", "_orig_mod.", "model."
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
    more |= AUXILIARY if architecture in ("googlenet", "inception_v3") else {}
    try:
        with warnings.catch_warnings():  # GoogLeNet and Inception announce how their weights start
            warnings.simplefilter("ignore", FutureWarning)
            network = models.get_model(architecture, weights=None, **more)
        network.set_submodule(last_layer(network), nn.Identity())
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


def last_layer(network: nn.Module) -> str:
    """The name of the layer that gives a network's logits."""
    return [name for name, module in network.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)][-1]


def normalization(architecture: str) -> tuple[list[float], list[float]]:
    """Mean and standard deviation that torchvision's default weights for a network were trained with."""
    from torchvision import models

    if architecture not in names():
        return IMAGENET
    if architecture in ("googlenet", "inception_v3"):  # these networks change ImageNet's normalization to this one
        return [0.5] * 3, [0.5] * 3
    transform = models.get_model_weights(architecture).DEFAULT.transforms()
    return list(transform.mean), list(transform.std)


def read(architecture: str, source: bool | str) -> dict[str, Tensor]:
    """Part of a state_dict of `wikiart.Classifier`, from torchvision's default weights (True) or a file (its path).

    A file may hold a state_dict of torchvision, with or without a head, as it is or in one of the usual wrappings, or
    be a checkpoint of this project.
    Raises UserError where the weights are not available.
    """
    if source is True:
        from torchvision import models

        if architecture not in names():
            raise UserError(f"there are no weights to download for {architecture}; expected false or a path")
        source = _download(models.get_model_weights(architecture).DEFAULT.url)
    state = checkpoints.load(source)
    if isinstance(state, dict) and "part" in state:
        checkpoints.check_version(state, f"{console.quoted(source)}: ", "train it again")
        if state.get("architecture") != architecture:
            held = state.get("architecture", "an autoencoder")
            raise UserError(f"{console.quoted(source)} holds {console.shown(held)}, expected {architecture}")
    state = _unwrap(state)
    if not isinstance(state, dict) or not all(
        isinstance(item, str | Tensor) for pair in state.items() for item in pair
    ):
        raise UserError(f"{console.quoted(source)} is not a state_dict, and holds none as {' or '.join(KEYS)}")
    if "normalize.mean" in state:
        return state
    mean, std = map(torch.tensor, normalization(architecture))
    trunk = {"trunk." + OLD_DENSENET.sub(r"\1\2", name): value for name, value in state.items()}
    return {"normalize.mean": mean, "normalize.std": std, **trunk}


def _download(url: str) -> str:
    """The path of a file of torchvision in torch.hub's cache; it is downloaded where it is not there."""
    path = os.path.join(torch.hub.get_dir(), "checkpoints", os.path.basename(url))
    try:
        if not os.path.exists(path):
            os.makedirs(os.path.dirname(path), exist_ok=True)
            digest = torch.hub.HASH_REGEX.search(os.path.basename(url))[1]
            torch.hub.download_url_to_file(url, path, digest, progress=processes.rank() == 0)
    except (OSError, http.client.HTTPException, RuntimeError) as error:  # the last: of another digest
        raise UserError(f"{url} cannot be downloaded: {console.reason(error)}; a path may be given instead") from None
    return path


def _unwrap(state: object) -> object:
    """The state_dict in a checkpoint, its names without `PREFIXES`; what has none of them beside it is left out."""
    for _ in range(2):
        held = (state[key] for key in KEYS if isinstance(state, dict) and isinstance(state.get(key), dict))
        state = next(held, state)
    if isinstance(state, dict) and all(isinstance(name, str) for name in state):
        while prefix := next((prefix for prefix in PREFIXES if any(name.startswith(prefix) for name in state)), None):
            state = {name.removeprefix(prefix): v for name, v in state.items() if name.startswith(prefix)}
    return state


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

    Raises UserError, beginning with `what`, where a tensor is missing, extra, sparse, of another shape or not finite.
    """
    wanted = network.state_dict()
    optional = {name for name in wanted if name.endswith("num_batches_tracked")}
    for name in sorted((set(wanted) | set(state)) - (optional - set(state)), key=str):
        value, problem = state.get(name), ""
        if name not in wanted:
            problem = "is not part of it"
        elif not isinstance(value, Tensor):
            problem = "is missing"
        elif value.layout != torch.strided or value.is_quantized:
            problem = "is sparse or quantized, expected plain numbers"
        elif value.shape != wanted[name].shape:
            problem = f"has the shape {list(value.shape)}, expected {list(wanted[name].shape)}"
        elif not value.to(wanted[name].dtype).isfinite().all():
            problem = "holds numbers that are not finite"
        if problem:
            raise UserError(f"{what}: {console.printable(name)} {problem}")
    wanted.update(state)  # and not a plain dict: MNASNet's version is an attribute of it
    network.load_state_dict(wanted)
