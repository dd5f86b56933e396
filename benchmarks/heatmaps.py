"""Which heatmap shows what a classifier's answer rests on?

The fifth of a painting that a map ranks highest is covered, by its mean colour or by a blurred copy (--cover), and the
probability of the predicted style falls. `fall`: its mean over test paintings; `random_fall`: that of the same shapes,
moved to random places; `ratio`: the first over the second. Candidates: Grad-CAM (Selvaraju et al., 2017,
arXiv:1610.02391) and LayerCAM (Jiang et al., 2021, doi:10.1109/TIP.2021.3089943) of the last feature map of each
resolution, with gradients through everything that the network reads, and their sums; occlusion by squares of several
sizes (support/answers/heatmaps.py). `cpu_seconds`: processor time per painting to make the map.
"""

import time
from functools import partial

import measure
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms.functional import gaussian_blur

import wikiart
from support.answers import heatmaps
from support.training import checkpoints

SHARE = 5  # a fifth is covered
MOVES = 3  # random places per painting
LIMITS = {"chosen.ratio": "at least 2", "chosen.cpu_seconds": "at most 2.2: 27 styles in 60 s on 2 cores"}


def main(argv: list[str] | None = None) -> None:
    """Measure every candidate, or those of --candidates."""
    parser = measure.parser(
        __doc__, modelfile="wikiart.pth", testingdir="data/sample/test", paintings=200, seed=0, cover="mean", threads=1
    )
    parser.add_argument("--candidates", nargs="+", help="for example gradcam_4, layercam_sum, occlusion_3")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    checkpoint = checkpoints.read(arguments.modelfile, 1)
    model = wikiart.load_network(checkpoint)
    dataset = wikiart.WikiArtDataset(arguments.testingdir, checkpoint["image_size"], checkpoint["classes"])
    random = torch.Generator().manual_seed(arguments.seed)
    images = dataset.images[torch.randperm(len(dataset), generator=random)[: arguments.paintings]] / 255
    covers = blurred(images) if arguments.cover == "blur" else images.mean((2, 3), keepdim=True)
    before, labels = predict(model, images).max(1)
    moves = torch.randint(images.shape[2], (MOVES, len(images), 2), generator=random).tolist()

    def fall(shapes: Tensor) -> float:
        after = predict(model, torch.where(shapes, covers, images)).gather(1, labels[:, None])[:, 0]
        return (before - after).mean().item()

    figures = {"machine": measure.machine(), "probability": before.mean().item()}
    for name, make in candidates(model, images[:1]).items():
        if arguments.candidates and name not in arguments.candidates:
            continue
        begun = time.process_time()
        maps = torch.cat([make(*part) for part in zip(images.split(8), labels.split(8), strict=True)])
        taken = (time.process_time() - begun) / len(images)
        shapes = highest(maps, images.shape[2])
        moved = [
            torch.stack([s.roll(move, (1, 2)) for s, move in zip(shapes, places, strict=True)]) for places in moves
        ]
        row = {"fall": fall(shapes), "random_fall": sum(map(fall, moved)) / MOVES, "cpu_seconds": taken}
        figures[name] = row | {"ratio": row["fall"] / row["random_fall"]}
        print(name, {key: round(value, 3) for key, value in figures[name].items()}, flush=True)
    chosen = figures.get(f"occlusion_{heatmaps.WINDOW}")
    measure.report(figures | ({"chosen": chosen} if chosen else {}), arguments.json, LIMITS)


def candidates(model: nn.Module, image: Tensor) -> dict[str, object]:
    """Name -> function of images and labels that returns maps."""
    sides = sorted(feature_maps(model, image)[0])
    makers = {}
    for name, kind in {"gradcam": grad_cam, "layercam": layer_cam}.items():
        makers |= {f"{name}_{side}": partial(gradient_maps, model, kind, [side]) for side in sides}
        makers[f"{name}_sum"] = partial(gradient_maps, model, kind, sides)
    occlusion = heatmaps.occlusion_maps
    return makers | {f"occlusion_{window}": partial(occlusion, model, window=window) for window in (1, 3, 5)}


def grad_cam(features: Tensor, gradients: Tensor) -> Tensor:
    """Each channel weighted by its mean gradient: [B, C, H, H] -> [B, 1, H, H]."""
    return F.relu((gradients.mean((2, 3), keepdim=True) * features).sum(1, keepdim=True))


def layer_cam(features: Tensor, gradients: Tensor) -> Tensor:
    """Each position weighted by its positive gradient."""
    return F.relu((F.relu(gradients) * features).sum(1, keepdim=True))


@torch.enable_grad()
def feature_maps(model: nn.Module, images: Tensor) -> tuple[dict[int, Tensor], Tensor]:
    """The last feature map of each resolution, by its side, and the logits."""
    last = {}

    def keep(_module: nn.Module, _inputs: tuple, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and 1 < output.shape[2] < images.shape[2]:
            last[output.shape[2]] = output

    with nn.modules.module.register_module_forward_hook(keep):
        logits = model(images.clone().requires_grad_())
    return last, logits


def gradient_maps(model: nn.Module, kind: object, sides: list[int], images: Tensor, labels: Tensor) -> Tensor:
    """The sum over the sides of a kind of map, each at the image's size with a maximum of 1: [B, S, S]."""
    last, logits = feature_maps(model, images)
    chosen = logits.gather(1, labels[:, None]).sum()
    gradients = torch.autograd.grad(chosen, [last[side] for side in sides])
    total = 0
    for side, gradient in zip(sides, gradients, strict=True):
        maps = F.interpolate(kind(last[side].detach(), gradient), size=images.shape[2:], mode="bilinear")[:, 0]
        total = total + maps / maps.amax((1, 2), keepdim=True).clamp(min=1e-12)
    return total


def blurred(images: Tensor) -> Tensor:
    """By a Gaussian whose standard deviation is an eighth of the side."""
    spread = images.shape[2] / 8
    return gaussian_blur(images, [2 * int(2 * spread) + 1] * 2, [spread] * 2)


def predict(model: nn.Module, images: Tensor) -> Tensor:
    """Probabilities as the evaluation has them: [B, classes]."""
    return torch.cat([wikiart.classify(model, part, flips=True).softmax(1) for part in images.split(32)])


def highest(maps: Tensor, side: int) -> Tensor:
    """The highest fifth of maps [B, H, H] at an image's size: bool [B, 1, S, S]."""
    maps = F.interpolate(maps[:, None], size=(side, side), mode="bilinear")
    best = maps.flatten(1).topk(side * side // SHARE, 1).indices
    return torch.zeros_like(maps, dtype=torch.bool).flatten(1).scatter_(1, best, True).view(maps.shape)


if __name__ == "__main__":
    main()
