"""What the four scripts share, in the order in which the data flows.

Settings -> files -> dataset (uint8) -> index order (shuffle, balance) -> batches on the device (augment, normalise)
-> model -> training -> checkpoint. Nothing here imports a script, and importing it does nothing.
"""

import itertools
import os
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.distributed
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from support import batches, checkpoints, console, devices, processes, settings, training
from support.images import DataError, decode_folder, find_images

if TYPE_CHECKING:
    from sklearn.decomposition import PCA

# ---------------------------------------------------------------------------------------------------------------------
# Talking to the person at the keyboard
# ---------------------------------------------------------------------------------------------------------------------


# ---------------------------------------------------------------------------------------------------------------------
# Settings: one definition gives a setting's default, its check, its flag and its line of help
# ---------------------------------------------------------------------------------------------------------------------


# ---------------------------------------------------------------------------------------------------------------------
# Files: written whole or not at all
# ---------------------------------------------------------------------------------------------------------------------


# ---------------------------------------------------------------------------------------------------------------------
# Dataset: a folder a style -> one uint8 array
# ---------------------------------------------------------------------------------------------------------------------


class WikiArtDataset(Dataset):
    """A folder of paintings, one folder a style, decoded once and memory-mapped from then on.

    `dataset[i]` is (uint8 tensor [3, S, S], int label). `classes`: sorted style names, or those given (a checkpoint's,
    so that labels keep their meaning). `images`: uint8 [N, 3, S, S]; `labels`: int64 [N]; `paths`: N texts; `counts`:
    style -> paintings; `fingerprints`: int64 [N], equal for equal pixels.

    Raises DataError for a folder that cannot be used, a style that is not in `classes`, and when more than half of
    the images cannot be decoded; UserError when the cache cannot be written.
    """

    def __init__(
        self, imgdir: str, image_size: int, classes: list[str] | None = None, cachedir: str = ".cache"
    ) -> None:
        imgdir = os.fspath(imgdir)
        styles = find_images(imgdir)
        self.classes = list(classes) if classes is not None else list(styles)
        for style in styles:
            if style not in self.classes:
                raise DataError(
                    f"folder {console.quoted(imgdir)} has the style {console.quoted(style)}, "
                    "which the model does not know"
                )
        files = [file for style in styles for file in styles[style]]
        labels = [self.classes.index(style) for style in styles for _ in styles[style]]
        data_path, left_out, fingerprints = decode_folder(imgdir, image_size, files, cachedir)
        for path, reason in left_out.items():
            console.warn(f"{console.quoted(os.path.join(imgdir, path))} is left out: {reason}")
        kept = [i for i, file in enumerate(files) if file.path not in left_out]
        if 2 * len(kept) < len(files) or not kept:
            raise DataError(
                f"folder {console.quoted(imgdir)}: {len(left_out)} of {len(files)} images cannot be decoded"
            )
        pixels = np.memmap(data_path, np.uint8, mode="c", shape=(len(kept), 3, image_size, image_size))
        self.images = torch.from_numpy(pixels)
        self.labels = torch.tensor([labels[i] for i in kept], dtype=torch.int64)
        self.paths = [os.path.join(imgdir, files[i].path) for i in kept]
        self.fingerprints = torch.tensor(fingerprints, dtype=torch.int64)
        numbers = torch.bincount(self.labels, minlength=len(self.classes)).tolist()
        self.counts = dict(zip(self.classes, numbers, strict=True))

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], int(self.labels[index])


def open_dataset(
    options: settings.Settings, folder: str, image_size: int | None = None, classes: list[str] | None = None
) -> WikiArtDataset:
    """The dataset of the setting `folder` ("trainingdir" or "testingdir"); errors name where the setting comes from."""
    try:
        return WikiArtDataset(getattr(options, folder), image_size or options.image_size, classes, options.cachedir)
    except DataError as error:
        raise options.error(folder, str(error)) from None


def warn_of_twins(dataset: WikiArtDataset) -> None:
    """Warn of identical images (by decoded pixels) that stand under two styles."""
    first, twins = {}, []
    for i, (key, label) in enumerate(zip(dataset.fingerprints.tolist(), dataset.labels.tolist(), strict=True)):
        j = first.setdefault(key, i)
        if label != int(dataset.labels[j]):
            twins.append(f"{console.quoted(dataset.paths[j])} and {console.quoted(dataset.paths[i])}")
    if twins:
        more = f" and {len(twins) - 5} more" if len(twins) > 5 else ""
        console.warn(f"{len(twins)} images stand under two styles: {'; '.join(twins[:5])}{more}")


def report_known(
    dataset: WikiArtDataset, checkpoint: dict[str, object], measure: Callable[[np.ndarray], dict[str, object]]
) -> dict[str, object] | None:
    """The metrics files' `also_in_training`: test paintings that equal training ones by their pixels; None without any.

    measure(kept): the figures of the test paintings that bool [N] keeps. A warning names the paintings.
    """
    known = torch.isin(dataset.fingerprints, checkpoint["fingerprints"]).numpy()
    if not known.any():
        return None
    paths = [path for path, is_known in zip(dataset.paths, known, strict=True) if is_known]
    more = f" and {len(paths) - 5} more" if len(paths) > 5 else ""
    console.warn(
        f"{len(paths)} test paintings are identical to training ones: {'; '.join(map(console.quoted, paths[:5]))}{more}"
    )
    return {"images": len(paths), "paths": paths, "metrics_without": None if known.all() else measure(~known)}


# ---------------------------------------------------------------------------------------------------------------------
# Balance: which paintings an epoch takes, and in which order
# ---------------------------------------------------------------------------------------------------------------------


# ---------------------------------------------------------------------------------------------------------------------
# Batches: gathered, blended, augmented and normalised on the device
# ---------------------------------------------------------------------------------------------------------------------


# ---------------------------------------------------------------------------------------------------------------------
# Models
# ---------------------------------------------------------------------------------------------------------------------


class PaddedConv2d(nn.Conv2d):
    """A convolution that pads beforehand: the same numbers, and on a CPU several times faster backwards."""

    def forward(self, images: Tensor) -> Tensor:
        padding = [side for side in reversed(self.padding) for _ in range(2)]
        return F.conv2d(F.pad(images, padding), self.weight, self.bias)


class ThreeConv(nn.Sequential):
    """The assignment's network, the yardstick: three convolutions with 4x4 pooling, 300 hidden units, logits out."""

    def __init__(self, classes: int) -> None:
        layers = []
        for channels_in, channels_out in [(3, 16), (16, 32), (32, 64)]:
            layers += [
                PaddedConv2d(channels_in, channels_out, 2, padding=2),
                nn.BatchNorm2d(channels_out),
                nn.ReLU(),
                nn.MaxPool2d(4, padding=2),
            ]
        head = [nn.Linear(4096, 300), nn.Dropout(0.1), nn.ReLU(), nn.Linear(300, classes)]
        super().__init__(*layers, nn.AdaptiveAvgPool2d(8), nn.Flatten(), *head)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut (He et al., 2016, arXiv:1512.03385, shortcut pooled as in 1812.01187)."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False),
            nn.BatchNorm2d(channels_out),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels_out, channels_out, 3, 1, 1, bias=False),
            nn.BatchNorm2d(channels_out),
        )
        nn.init.zeros_(self.body[-1].weight)  # a block starts as its shortcut alone
        shortcut = [nn.AvgPool2d(stride, ceil_mode=True)] if stride > 1 else []  # odd sides halve as in the body
        if channels_in != channels_out:
            shortcut += [nn.Conv2d(channels_in, channels_out, 1, bias=False), nn.BatchNorm2d(channels_out)]
        self.shortcut = nn.Sequential(*shortcut)

    def forward(self, images: Tensor) -> Tensor:
        return F.relu(self.body(images) + self.shortcut(images))


def colour_histogram(images: Tensor) -> Tensor:
    """Square roots of each image's 8x8x8 histogram of colours, which sums to 1: float [B, 3, S, S] -> [B, 512].

    The bins share the range from -2 to 2 evenly; the outermost take what lies beyond.
    """
    red, green, blue = ((images + 2) * 2).clamp(0, 7).floor().unbind(1)
    return _root_histogram((64 * red + 8 * green + blue).long(), 512)


def texture_histogram(greys: Tensor) -> Tensor:
    """Square roots of each image's histogram of local binary patterns: float [B, S, S] -> [B, 256].

    A pixel's pattern says which of its eight neighbours are clearly lighter, by a hundredth of the range from -2 to 2
    (Ojala et al., 2002, doi:10.1109/TPAMI.2002.1017623): flat paint, edges and the grain of brushwork differ in it.
    """
    side, threshold = greys.shape[-1], greys[:, 1:-1, 1:-1] + 0.04
    around = [(0, 0), (0, 1), (0, 2), (1, 2), (2, 2), (2, 1), (2, 0), (1, 0)]
    pattern = torch.zeros_like(threshold, dtype=torch.uint8)
    for bit, (y, x) in enumerate(around):
        lighter = greys[:, y : side - 2 + y, x : side - 2 + x] > threshold
        pattern |= lighter.view(torch.uint8) << bit
    return _root_histogram(pattern.long(), 256)


def _root_histogram(values: Tensor, bins: int) -> Tensor:
    values = values.flatten(1)
    counts = torch.zeros(len(values), bins, device=values.device)
    return counts.scatter_add_(1, values, torch.ones_like(values, dtype=counts.dtype)).div_(values.shape[1]).sqrt_()


def style_statistics(images: Tensor) -> Tensor:
    """What a painting looks like wherever things stand in it: float [B, 3, S, S] -> [B, STATISTICS].

    Its colours, and its textures at full and at half size; the images' range is `colour_histogram`'s.
    """
    red, green, blue = images.unbind(1)  # on a CPU their mean is several times faster than images.mean(1)
    greys = (red + green + blue) / 3
    blocks = [colour_histogram(images), texture_histogram(greys), texture_histogram(F.avg_pool2d(greys, 2))]
    return torch.cat([block * scale for block, scale in zip(blocks, STATISTICS_SCALES, strict=True)], 1)


STATISTICS = 512 + 256 + 256
STATISTICS_SCALES = (0.87, 2.02, 1.4)  # over WikiArt, each block then has a third of a total variance of 1


class Residual(nn.Module):
    """Our network: normalised images, float [B, 3, S, S] -> logits [B, classes].

    A compact residual trunk halves the side five times, so that at 128 pixels a last unit sees the whole painting. A
    second branch reads palette and brushwork from the `style_statistics`, which convolutions are slow to learn.
    """

    def __init__(self, classes: int, width: int = 32) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Conv2d(3, width, 3, 2, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2, 1),
            ResidualBlock(width, 2 * width, 1),
            ResidualBlock(2 * width, 4 * width, 2),
            ResidualBlock(4 * width, 8 * width, 2),
            ResidualBlock(8 * width, 8 * width, 2),
        )
        self.statistics = nn.Sequential(
            nn.BatchNorm1d(STATISTICS, eps=1e-3, affine=False),  # a number's variance is about that; less is noise
            nn.Linear(STATISTICS, 4 * width, bias=False),
            nn.BatchNorm1d(4 * width),
            nn.ReLU(inplace=True),
        )
        self.statistics[0].running_var.fill_(1e-3)  # so that a few steps are enough to find it
        self.head = nn.Linear(12 * width, classes)

    def forward(self, images: Tensor) -> Tensor:
        if images.shape[2] < 32:  # else the last level halves single pixels, where oneDNN leaves gradients unset
            images = F.interpolate(images, size=(32, 32), mode="bilinear")
        features = [self.trunk(images).mean((2, 3)), self.statistics(style_statistics(images))]
        return self.head(torch.cat(features, 1))


OWN_NETWORKS = {"residual": Residual, "three_conv": ThreeConv}
IMAGENET_MEAN, IMAGENET_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]  # what torchvision's weights were trained on


def make_classifier(architecture: str, classes: int, image_size: int) -> nn.Module:
    """A network from normalised images [B, 3, S, S] to logits [B, classes].

    "residual", "three_conv" or the name of a classification model of torchvision, its weights drawn at random.
    Raises UserError for a name that is none, and for a model that does not take S x S images or give plain logits.
    """
    if architecture in OWN_NETWORKS:
        return OWN_NETWORKS[architecture](classes)
    from torchvision import models  # takes a second to import, and our own networks do not need it

    names = models.list_models(module=models)
    if architecture not in names:
        hint = console.did_you_mean(architecture, [*OWN_NETWORKS, *names]) if architecture else ""
        raise console.UserError(f"no network is called {console.quoted(architecture)}{hint if 'mean' in hint else ''}")
    size = {"image_size": image_size} if architecture.startswith("vit_") else {}
    try:
        with warnings.catch_warnings():  # two models warn of how they start, which does not matter here
            warnings.simplefilter("ignore", FutureWarning)
            network = models.get_model(architecture, weights=None, num_classes=classes, **size)
        with torch.no_grad():
            logits = network(torch.zeros(2, 3, image_size, image_size, device=next(network.parameters()).device))
        for module in network.modules():  # what the trial has left in running statistics
            if isinstance(module, nn.BatchNorm2d):
                module.reset_running_stats()
    except Exception as error:  # each model has its own way to say that a size does not suit it
        reason = " ".join(str(error).split()) or type(error).__name__
        raise console.UserError(
            f"{architecture} does not take images of {image_size} pixels a side: {reason}"
        ) from None
    if not isinstance(logits, Tensor) or logits.shape != (2, classes):
        raise console.UserError(f"{architecture} does not give plain logits, which training needs")
    return network


def load_pretrained(network: nn.Module, architecture: str, source: bool | str) -> None:
    """Fill all but the head of a classifier from torchvision's weights (True) or a state_dict file (its path).

    Raises UserError where the weights cannot be had or do not fit.
    """
    if source is True:
        if architecture in OWN_NETWORKS:
            raise console.UserError(f"there are no weights to download for {architecture}; meant: false or a path")
        from torchvision import models

        try:
            state = models.get_model_weights(architecture).DEFAULT.get_state_dict(progress=processes.rank() == 0)
        except Exception as error:  # no network, no space, a proxy's page instead of the file
            raise console.UserError(f"torchvision's weights for {architecture} cannot be had: {error}") from None
    else:
        state = checkpoints.load(source)
        state = state.get("model", state) if isinstance(state, dict) else state  # one of our checkpoints will do
        if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
            raise console.UserError(f"{console.quoted(source)} holds no state_dict")
    head = training.head_of(network) + "."
    wanted = network.state_dict()
    state = {name: value for name, value in state.items() if not name.startswith(head)}
    for name in sorted((set(wanted) | set(state)) - {n for n in wanted if n.startswith(head)}):
        shapes = [tuple(s[name].shape) if isinstance(s.get(name), Tensor) else "nothing" for s in (state, wanted)]
        if shapes[0] != shapes[1]:
            raise console.UserError(f"the weights do not fit {architecture}: {name} is {shapes[0]}, meant {shapes[1]}")
        if not checkpoints.is_plain(state[name]):
            raise console.UserError(f"the weights are damaged: {name} holds numbers that are not finite, or none")
    network.load_state_dict(state, strict=False)


def build_classifier(options: settings.Settings, classes: int) -> nn.Module:
    """The classifier that the settings describe; errors name the setting that is to blame."""
    try:
        network = make_classifier(options.architecture, classes, options.image_size)
    except console.UserError as error:
        raise options.error("architecture", str(error)) from None
    if options.pretrained is not False:
        try:
            load_pretrained(network, options.architecture, options.pretrained)
        except console.UserError as error:
            raise options.error("pretrained", str(error)) from None
    return network


VIEW_SIDE = 0.8  # of a painting's side is what a partial view shows


def views(images: Tensor) -> Iterator[Tensor]:
    """Twelve views of images [B, 3, S, S], of that shape: corners, middle and all of it, and their mirror images.

    Training sees crops, so that the mean over crops is worth more than the whole picture alone.
    """
    side = images.shape[2]
    part = round(VIEW_SIDE * side)
    end = side - part
    for y, x in [(0, 0), (0, end), (end, 0), (end, end), (end // 2, end // 2), (None, None)]:
        view = images
        if y is not None:
            view = F.interpolate(images[:, :, y : y + part, x : x + part], size=(side, side), mode="bilinear")
        yield view
        yield view.flip(3)


@torch.no_grad()
def classify(model: nn.Module, images: Tensor, mean: list[float], std: list[float], many_views: bool = False) -> Tensor:
    """Logits, float32 [B, classes], of images [B, 3, S, S] in [0, 1]; with `many_views` the mean over twelve views."""
    images = batches.normalise(images, mean, std)
    looks = views(images) if many_views else [images]
    with devices.autocast(images.device):
        logits = [model(look.contiguous(memory_format=torch.channels_last)).float() for look in looks]
    return sum(logits) / len(logits)


PCA_IMAGES = 10_000  # images at most that a PCA is fitted on
PCA_NUMBERS = 2**28  # and pixel values at most: a gigabyte


def fit_pca(images: Tensor, members: Tensor, components: int, seed: int) -> "PCA":
    """The best linear autoencoder: scikit-learn's PCA of the `members` of uint8 images [N, 3, S, S], pixels in [0, 1].

    It is fitted on at most `PCA_IMAGES` of them, drawn by the seed, and has fewer components where those allow no more.
    """
    from sklearn.decomposition import PCA  # takes a second to import, and only part 2 needs it

    values = images[0].numel()
    count = min(len(members), PCA_IMAGES, max(1, PCA_NUMBERS // values))
    drawn = np.sort(np.random.default_rng(seed).permutation(len(members))[:count])
    pixels = images[members[torch.from_numpy(drawn)]].flatten(1).float().div_(255).numpy()
    pca = PCA(min(components, count, values), copy=False, svd_solver="randomized", random_state=seed)
    with np.errstate(invalid="ignore"):  # a single painting has no variance to explain
        return pca.fit(pixels)


class Autoencoder(nn.Module):
    """Images [B, 3, S, S] in [0, 1] to a vector of `latent_dim` numbers and back; S is a multiple of 16.

    It holds the best linear autoencoder, which `start_from` gives it, and its convolutions learn what that leaves. The
    painting's `style_statistics` go into the same vector, and are read from it again, by a linear layer each.
    """

    def __init__(self, image_size: int, latent_dim: int, width: int = 32) -> None:
        super().__init__()
        if image_size % 16:
            raise console.UserError(f"the autoencoder halves images four times: {image_size} is not a multiple of 16")
        small, top, values = image_size // 16, 8 * width, 3 * image_size**2
        layers = []
        for channels_in, channels_out in itertools.pairwise([3, width, 2 * width, 4 * width, top]):
            layers += [
                nn.Conv2d(channels_in, channels_out, 4, 2, 1, bias=False),
                nn.BatchNorm2d(channels_out),
                nn.ReLU(inplace=True),
                ResidualBlock(channels_out, channels_out, 1),
            ]
        self.encoder = nn.Sequential(*layers, nn.Flatten(), nn.Linear(top * small**2, latent_dim))
        self.statistics_encoder = nn.Linear(STATISTICS, latent_dim, bias=False)
        layers = [nn.Linear(latent_dim, top * small**2), nn.Unflatten(1, (top, small, small))]
        for channels_in, channels_out in itertools.pairwise([top, 4 * width, 2 * width, width]):
            layers += [
                nn.Conv2d(channels_in, 4 * channels_out, 3, 1, 1, bias=False),
                nn.PixelShuffle(2),
                nn.BatchNorm2d(channels_out),
                nn.ReLU(inplace=True),
                ResidualBlock(channels_out, channels_out, 1),
            ]
        self.decoder = nn.Sequential(*layers, nn.Conv2d(width, 12, 3, 1, 1), nn.PixelShuffle(2))
        self.statistics_decoder = nn.Linear(latent_dim, STATISTICS, bias=False)
        ends = (self.encoder[-1], self.statistics_encoder, self.decoder[-2], self.statistics_decoder)
        for layer in ends:  # at first the linear part stands alone
            nn.init.zeros_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        self.register_buffer("mean", torch.full((values,), 0.5))
        self.register_buffer("components", torch.zeros(latent_dim, values))
        self.register_buffer("scales", torch.ones(latent_dim))

    def start_from(self, pca: "PCA") -> None:
        """Take a PCA of pixels in [0, 1] as the linear part, its codes scaled to a variance of 1."""
        count = int((np.nan_to_num(pca.explained_variance_) > 1e-6).sum())  # few or equal paintings have few directions
        self.mean.copy_(torch.from_numpy(pca.mean_))
        self.components[:count] = torch.from_numpy(pca.components_[:count])
        self.scales[:count] = torch.from_numpy(pca.explained_variance_[:count]).sqrt()

    def encode(self, images: Tensor) -> Tensor:
        """Float [B, 3, S, S] in [0, 1] -> latents [B, latent_dim]."""
        return self._encode(images, style_statistics(4 * images - 2))

    def decode(self, latents: Tensor) -> Tensor:
        """Latents [B, latent_dim] -> float32 images [B, 3, S, S] in [0, 1]."""
        return self._paint(latents).clamp(0, 1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The reconstruction [B, 3, S, S], not cut off to [0, 1] so that errors beyond count, and the error
        [B, STATISTICS] of the statistics read, less its mean: only differences between paintings matter.
        """
        statistics = style_statistics(4 * images - 2)
        latents = self._encode(images, statistics)
        error = self.statistics_decoder(latents).float() - statistics
        return self._paint(latents), error - error.mean(0)

    def _encode(self, images: Tensor, statistics: Tensor) -> Tensor:
        linear = F.linear(images.contiguous().flatten(1) - self.mean, self.components) / self.scales
        learnt = self.encoder((images - 0.5).contiguous(memory_format=torch.channels_last))
        return linear + learnt + self.statistics_encoder(statistics)

    def _paint(self, latents: Tensor) -> Tensor:
        learnt = self.decoder(latents).float()
        return learnt + (F.linear(latents * self.scales, self.components.T).float() + self.mean).view(learnt.shape)


@torch.no_grad()
def reconstruct(
    model: Autoencoder, paintings: batches.Paintings, members: Tensor, batch_size: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """This process's share of the members, batch by batch: images and reconstructions in [0, 1], and latents, float32.

    A latent is the mean over the painting and its mirror image; the reconstruction is made from the painting alone.
    """
    for images, _ in paintings.batches(members, batch_size):
        with devices.autocast(images.device):
            latents = model.encode(images)
            mirrored = model.encode(images.flip(3))
            decoded = model.decode(latents)
        yield images, decoded, (latents.float() + mirrored.float()) / 2


# ---------------------------------------------------------------------------------------------------------------------
# Checkpoints: data, not code
# ---------------------------------------------------------------------------------------------------------------------


def load_model(checkpoint: dict[str, object], path: str | os.PathLike, device: torch.device) -> nn.Module:
    """The network of a checked checkpoint, ready to be used on `device`.

    It is built without memory and takes the checkpoint's tensors as they are, so that no wrong size can be made.
    Raises UserError when the tensors do not fit the network that the checkpoint names.
    """
    state = checkpoint["model"]
    try:
        with torch.device("meta"):
            if checkpoint["part"] == 1:
                model = make_classifier(
                    checkpoint["architecture"], len(checkpoint["classes"]), checkpoint["image_size"]
                )
            else:
                model = Autoencoder(checkpoint["image_size"], checkpoint["latent_dim"])
        wanted = model.state_dict()
        if any(state[name].dtype != wanted[name].dtype for name in wanted if name in state):
            raise RuntimeError("numbers of another kind")
        model.load_state_dict(state, assign=True)
        if checkpoint["part"] == 2 and not (model.scales > 0).all():
            raise RuntimeError("a scale that is not positive")
    except (RuntimeError, console.UserError) as error:
        reason = " ".join(str(error).split())[:200]
        raise console.UserError(f"{console.quoted(path)[1:-1]}: is damaged: its weights do not fit: {reason}") from None
    return model.requires_grad_(False).eval().to(device, memory_format=torch.channels_last)


# ---------------------------------------------------------------------------------------------------------------------
# Training: one loop for both parts, one process or many
# ---------------------------------------------------------------------------------------------------------------------
