"""The dataset, the classifiers and the autoencoder, with their losses: what all four scripts are about.

    dataset = WikiArtDataset("data/sample/train", image_size=64)       # files -> uint8 images and labels
    model = make_classifier("residual", len(dataset.classes), 64)      # images in [0, 1] -> logits
    loss = classifier_loss(model, images, labels)

All of it can be imported in a notebook. `support/` has the rest of what the scripts need.
"""

import math
import os
import unicodedata
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from support.networks import pretrained
from support.networks.description import Description
from support.networks.heads import Head
from support.paintings import cache
from support.paintings.folders import find_images
from support.system import console
from support.system.console import DataError, UserError

if TYPE_CHECKING:
    from sklearn.decomposition import PCA

# ---------------------------------------------------------------------------------------------------------------------
# Dataset
# ---------------------------------------------------------------------------------------------------------------------


class WikiArtDataset(Dataset):
    """A folder of paintings, one folder per style, decoded once into a memory-mapped file.

    `dataset[i]` is (uint8 tensor [3, S, S], int label). `classes`: sorted style names, or those given (a checkpoint's,
    so that labels keep their meaning). `images`: uint8 [N, 3, S, S], read-only; `labels`: int64 [N]; `paths`: N texts;
    `counts`: style -> number of paintings; `fingerprints`: int64 [N], equal for equal pixels.

    Raises DataError for a folder that cannot be used, a style that is not in `classes`, and when more than half of
    the images cannot be decoded; UserError when the cache cannot be written or mapped.
    """

    def __init__(
        self, imgdir: str, image_size: int, classes: list[str] | None = None, cachedir: str = ".cache"
    ) -> None:
        imgdir, self.image_size = os.fspath(imgdir), image_size
        styles = find_images(imgdir, classes or ())
        self.classes = list(styles) if classes is None else list(classes)
        label_of = {unicodedata.normalize("NFC", name): label for label, name in enumerate(self.classes)}
        for style in styles:
            if style not in label_of:
                problem = f"has the style {console.quoted(style)}, which the model does not know"
                hint = console.did_you_mean(style, self.classes)
                raise DataError(f"folder {console.quoted(imgdir)} {problem}{hint}")
        files = [file for style in styles for file in styles[style]]
        labels = [label_of[style] for style in styles for _ in styles[style]]
        pixel_file, left_out, fingerprints = cache.decode_folder(imgdir, image_size, files, cachedir)
        self.pixel_file = os.path.abspath(pixel_file)  # spawned workers may begin in another folder
        for path, reason in left_out.items():
            console.warn(f"{console.quoted(os.path.join(imgdir, path))} is left out: {reason}")
        kept = [i for i, file in enumerate(files) if file.path not in left_out]
        if 2 * len(kept) < len(files) or not kept:
            raise DataError(
                f"folder {console.quoted(imgdir)}: {len(left_out)} of {len(files)} images cannot be decoded"
            )
        self.labels = torch.tensor([labels[i] for i in kept], dtype=torch.int64)
        self.paths = [os.path.join(imgdir, files[i].path) for i in kept]
        self.fingerprints = torch.tensor(fingerprints, dtype=torch.int64)
        numbers = torch.bincount(self.labels, minlength=len(self.classes)).tolist()
        self.counts = dict(zip(self.classes, numbers, strict=True))
        self.images = cache.map_pixels(self.pixel_file, len(self.labels), image_size)

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in vars(self).items() if name != "images"}  # workers map the file again

    def __setstate__(self, state: dict[str, object]) -> None:
        vars(self).update(state)
        self.images = cache.map_pixels(self.pixel_file, len(self.labels), self.image_size)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index].clone(), int(self.labels[index])


# ---------------------------------------------------------------------------------------------------------------------
# Classifiers
# ---------------------------------------------------------------------------------------------------------------------


class PaddedConv2d(nn.Conv2d):
    """nn.Conv2d with explicit zero padding: the same output, and faster on a CPU."""

    def forward(self, images: Tensor) -> Tensor:
        padding = [side for side in reversed(self.padding) for _ in range(2)]
        padded = F.pad(images, padding)
        return F.conv2d(padded, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


class ThreeConv(nn.Sequential):
    """The assignment's network, the baseline: three convolutions with 4x4 pooling, then 300 hidden units."""

    has_statistics = False  # a head reads the hidden units alone

    def __init__(self) -> None:
        layers = []
        for channels_in, channels_out in [(3, 16), (16, 32), (32, 64)]:
            layers += [
                PaddedConv2d(channels_in, channels_out, 2, padding=2),
                nn.BatchNorm2d(channels_out),
                nn.ReLU(),
                nn.MaxPool2d(4, padding=2),
            ]
        hidden = [nn.Linear(4096, 300), nn.Dropout(0.1), nn.ReLU()]
        super().__init__(*layers, nn.AdaptiveAvgPool2d(8), nn.Flatten(), *hidden)


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


SMALLEST = 32  # side in pixels to which our trunk enlarges smaller images


class Residual(nn.Sequential):
    """Our trunk: a compact residual network, normalised images, float [B, 3, S, S] -> features [B, 8 * width].

    It halves the side five times, so that at 128 pixels a last unit sees the whole painting.
    """

    def __init__(self, width: int = 32) -> None:
        super().__init__(
            nn.Conv2d(3, width, 3, 2, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2, 1),
            ResidualBlock(width, 2 * width, 1),
            ResidualBlock(2 * width, 4 * width, 2),
            ResidualBlock(4 * width, 8 * width, 2),
            ResidualBlock(8 * width, 8 * width, 2),
        )

    def forward(self, images: Tensor) -> Tensor:
        if images.shape[2] < SMALLEST:  # else the last level halves single pixels, where oneDNN leaves gradients unset
            images = F.interpolate(images, size=(SMALLEST, SMALLEST), mode="bilinear")
        return super().forward(images).mean((2, 3))


OWN_TRUNKS = {"residual": Residual, "three_conv": ThreeConv}
LABEL_SMOOTHING = 0.1
CROP = 0.75  # share of a painting's side that one step of training from scratch sees


class Classifier(Description):
    """A description (trunk and statistics) and a linear head: float [B, 3, S, S] in [0, 1] -> logits [B, classes].

    Two heads can read it, and each has its own input: `head` reads `features`; gradients through it train the trunk.
    `fitted`, where there is one, reads `all_features`, also correlations and histograms, and gives the logits instead;
    it is fitted to a trunk that stays as it is (`support/networks/heads.py`), since a trunk that trains beside such
    statistics learns less.
    `three_conv` stays the assignment's network: heads read its hidden units alone, as they are, and since these see
    where things are, it trains on whole paintings. `crop_side`: side in pixels of the crops that a network trains on.
    """

    def __init__(self, architecture: str, trunk: nn.Module, classes: int, image_size: int) -> None:
        super().__init__(architecture, trunk, image_size)
        self.eval()
        crop_side = min(image_size, max(SMALLEST, round(CROP * image_size)))  # enlarged by as much as the whole is
        self.crop_side = crop_side if self.has_statistics and self.takes(crop_side) else image_size
        self.head, self.fitted = self.new_head(classes), None
        self.train()

    def new_head(self, classes: int) -> Head:
        """A head with random weights that reads `features`."""
        return Head(self.width, classes, self.has_statistics)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images)) if self.fitted is None else self.fitted(self.all_features(images))

    def load_state_dict(self, state_dict: dict[str, Tensor], *args: object, **kwargs: object) -> object:
        """As of any module; the network has a fitted head afterwards if the state has one."""
        self.fitted = None
        if any(name.startswith("fitted.") for name in state_dict):
            head = Head(self.full_width, self.head.linear.out_features, self.has_statistics)
            self.fitted = head.to(self.normalize.mean.device).requires_grad_(False).eval()
        return super().load_state_dict(state_dict, *args, **kwargs)

    def load_pretrained(self, source: bool | str) -> None:
        """As of any description; whole paintings train it from then on."""
        super().load_pretrained(source)
        self.crop_side = self.image_size


def make_trunk(architecture: str, image_size: int) -> nn.Module:
    """A new trunk with random weights: normalized float [B, 3, S, S] -> features [B, W].

    "residual", "three_conv" or the name of a classification model of torchvision. To add one of your own, write it
    above and name it in `OWN_TRUNKS`. Raises UserError for a name or a size that torchvision does not know.
    """
    if architecture not in OWN_TRUNKS and architecture not in pretrained.names():
        hint = console.did_you_mean(architecture, [*OWN_TRUNKS, *pretrained.names()])
        raise UserError(f"unknown architecture {console.quoted(architecture)}{hint}")
    own = OWN_TRUNKS.get(architecture)
    return own() if own else pretrained.build(architecture, image_size)


def make_classifier(architecture: str, classes: int, image_size: int) -> Classifier:
    """A new network with random weights: float [B, 3, S, S] in [0, 1] -> logits [B, classes]; see `make_trunk`."""
    return Classifier(architecture, make_trunk(architecture, image_size), classes, image_size)


def classifier_loss(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """The loss of training: cross-entropy with label smoothing, mean over a batch of images in [0, 1]."""
    return F.cross_entropy(model(images).float(), labels, label_smoothing=LABEL_SMOOTHING)


@torch.no_grad()
def classify(model: Classifier, images: Tensor, flips: bool = False) -> Tensor:
    """Logits, float32 [B, classes], of images [B, 3, S, S] in [0, 1]; with `flips` means with their flips'."""
    logits = model(images).float()
    return (logits + model(images.flip(3)).float()) / 2 if flips else logits


# ---------------------------------------------------------------------------------------------------------------------
# Autoencoder
# ---------------------------------------------------------------------------------------------------------------------


WORKING_SIDE = 32  # in pixels, of the images that the autoencoder's convolutions see
STYLE_NUMBERS = 6  # of the latent vector, at most half of it, describe the painting's style


class Correction(nn.Module):
    """A small U-Net (Ronneberger et al., 2015, arXiv:1505.04597): images [B, 3, S, S] -> what to add to them, float32.

    It works at 32 x 32 pixels, whatever S is: 128 numbers hold little finer detail. Its output is 0 before training.
    """

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.fine = self._halve(3, width)
        self.coarse = nn.Sequential(
            self._halve(width, 2 * width), nn.Conv2d(2 * width, 4 * width, 1), nn.PixelShuffle(2)
        )
        self.out = nn.Sequential(ResidualBlock(width, width, 1), nn.Conv2d(width, 12, 3, 1, 1), nn.PixelShuffle(2))
        nn.init.zeros_(self.out[1].weight)
        nn.init.zeros_(self.out[1].bias)

    @staticmethod
    def _halve(channels_in: int, channels_out: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(channels_in, channels_out, 4, 2, 1, bias=False),
            nn.BatchNorm2d(channels_out),
            nn.ReLU(inplace=True),
            ResidualBlock(channels_out, channels_out, 1),
            ResidualBlock(channels_out, channels_out, 1),
        )

    def forward(self, images: Tensor) -> Tensor:
        small = F.adaptive_avg_pool2d(images, WORKING_SIDE) - 0.5
        fine = self.fine(small.contiguous(memory_format=torch.channels_last))
        return F.interpolate(self.out(fine + self.coarse(fine)).float(), size=images.shape[2:], mode="bilinear")


class Autoencoder(nn.Module):
    """Images [B, 3, S, S] in [0, 1] to a vector of `latent_dim` numbers and back.

    The first numbers (`style_dim`) describe the painting's style, by a discriminant of its description, and are not
    decoded. The others describe its content: they are the codes of a PCA, where `encoder` learns what to add to a
    painting before it is projected, and `decoder` what to add to the linear reconstruction. Convolutions do the same
    everywhere, so they learn from few paintings what a fully connected layer does not. PCA and discriminant, which
    `start_from` gives it, stay as they are, and so does the description's trunk: `architecture`, as in `make_trunk`, or
    "none".
    """

    def __init__(self, image_size: int, latent_dim: int, architecture: str = "none") -> None:
        super().__init__()
        trunk = None if architecture == "none" else make_trunk(architecture, image_size)
        self.description = Description(architecture, trunk, image_size).requires_grad_(False)
        self.style_dim, values = min(STYLE_NUMBERS, latent_dim // 2), 3 * image_size**2
        self.encoder, self.decoder = Correction(), Correction()
        self.register_buffer("mean", torch.full((values,), 0.5))
        self.register_buffer("components", torch.zeros(latent_dim, values))  # all of them: the PCA is a yardstick, too
        self.register_buffer("content_std", torch.ones(latent_dim - self.style_dim))
        self.register_buffer("style_mean", torch.zeros(self.description.full_width))
        self.register_buffer("style_axes", torch.zeros(self.style_dim, self.description.full_width))

    def start_from(self, pca: "PCA", discriminant: tuple[Tensor, Tensor]) -> None:
        """Take a PCA of pixels in [0, 1], its codes scaled to a variance of 1, and mean and axes of a discriminant."""
        count = int((pca.explained_variance_ > 1e-6).sum())  # few or equal paintings have few directions
        self.mean.copy_(torch.from_numpy(pca.mean_))
        self.components[:count] = torch.from_numpy(pca.components_[:count])
        spread = torch.from_numpy(pca.explained_variance_[:count]).sqrt()[: len(self.content_std)]
        self.content_std[: len(spread)] = spread
        self.style_mean.copy_(discriminant[0])
        self.style_axes.copy_(discriminant[1])

    def encode(self, images: Tensor) -> Tensor:
        """Float [B, 3, S, S] in [0, 1] -> latents, float32 [B, latent_dim]: style, then content."""
        with torch.autocast(images.device.type, enabled=False):  # bfloat16 is too coarse for differences from a mean
            style = self.style(self.description.all_features(images))
        return torch.cat([style, self.content(images)], 1)

    def style(self, features: Tensor) -> Tensor:
        """The part of the latents that is not decoded, of the description's features [B, F]: float32 [B, style_dim]."""
        return F.linear(features - self.style_mean, self.style_axes)

    def train(self, mode: bool = True) -> "Autoencoder":
        """As of any module, but the description stays in eval mode."""
        super().train(mode)
        self.description.eval()
        return self

    def decode(self, latents: Tensor) -> Tensor:
        """Latents [B, latent_dim] -> float32 images [B, 3, S, S] in [0, 1]."""
        return self._decode(latents[:, self.style_dim :]).clamp(0, 1)

    def forward(self, images: Tensor) -> Tensor:
        """The reconstruction [B, 3, S, S], not clipped to [0, 1] so that errors beyond count in training."""
        return self._decode(self.content(images))

    def content(self, images: Tensor) -> Tensor:
        """The part of the latents that is decoded: float [B, 3, S, S] in [0, 1] -> float32 [B, content numbers]."""
        corrected = images + self.encoder(images)
        with torch.autocast(images.device.type, enabled=False):
            return (
                F.linear(corrected.flatten(1) - self.mean, self.components[: len(self.content_std)]) / self.content_std
            )

    def _decode(self, content: Tensor) -> Tensor:
        with torch.autocast(content.device.type, enabled=False):
            linear = F.linear(content * self.content_std, self.components[: len(self.content_std)].T) + self.mean
        side = math.isqrt(len(self.mean) // 3)
        linear = linear.view(-1, 3, side, side)
        return linear + self.decoder(linear)


def autoencoder_loss(model: nn.Module, images: Tensor) -> Tensor:
    """The loss of training on a batch of images in [0, 1]: the mean squared error of the reconstruction's pixels."""
    return F.mse_loss(model(images), images)


@torch.no_grad()
def embed(model: Autoencoder, images: Tensor) -> Tensor:
    """Where images in [0, 1] lie among others, to find similar ones: float32 [B, latent_dim], without autocast.

    The mean of the latents of a painting and its mirror image. Each content number is multiplied by the spread of its
    component in pixels: in the latents as they are, fine details count as much as light and dark.
    """
    style, content = ((model.encode(images) + model.encode(images.flip(3))) / 2).tensor_split([model.style_dim], 1)
    return torch.cat([style, content * model.content_std], 1)


def load_network(checkpoint: dict[str, object], where: str = "checkpoint") -> nn.Module:
    """The network of a checkpoint, a `Classifier` or an `Autoencoder`, in eval mode and without gradients.

    Raises UserError, beginning with `where`, when the weights do not fit the network that the checkpoint names.
    """
    problem, size = f"{where}: is damaged: its weights do not fit", checkpoint["image_size"]
    try:
        if checkpoint["part"] == 1:
            model = make_classifier(checkpoint["architecture"], len(checkpoint["classes"]), size)
        else:
            model = Autoencoder(size, checkpoint["latent_dim"], checkpoint["architecture"])
    except UserError as error:
        raise UserError(f"{problem}: {error}") from None
    pretrained.fill(model, checkpoint["model"], problem)
    return model.requires_grad_(False).eval()
