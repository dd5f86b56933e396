"""How many of the labels that were changed at random are among the first paintings of suspects.csv.

A share of the training labels becomes another style, drawn by the seed. Beside ours: cleanlab's confident joint
(Northcutt et al., 2021, arXiv:1911.00068), which ranks what it takes for wrong by the same probabilities.
"""

import numpy as np
import torch
from cleanlab.filter import find_label_issues
from measure import begin, machine, parser, report, seconds
from sklearn.metrics import average_precision_score

import wikiart
from support.answers import suspects
from support.networks import features
from support.paintings import duplicates
from support.training import batches


def change(labels: torch.Tensor, share: float, seed: int) -> tuple[torch.Tensor, np.ndarray]:
    """Labels (int64 [N]) of which a share is changed to another style at random, and which were: bool [N]."""
    random, classes = np.random.default_rng(seed), int(labels.max()) + 1
    changed = np.zeros(len(labels), bool)
    changed[random.permutation(len(labels))[: round(share * len(labels))]] = True
    shift = torch.from_numpy(np.where(changed, random.integers(1, classes, len(labels)), 0))
    return (labels + shift) % classes, changed


def main() -> None:
    """Change labels with each seed, look for them, and report the shares."""
    made = parser(
        __doc__, trainingdir="data/sample/train", image_size=128, architecture="mobilenet_v2", pretrained="true"
    )
    made.add_argument("--share", type=float, default=0.05, help="of the labels that are changed; default: 0.05")
    made.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="default: 0 1 2")
    given = made.parse_args()
    names = ("trainingdir", "image_size", "architecture", "pretrained")
    options, device = begin(**{name: getattr(given, name) for name in names})
    dataset = wikiart.WikiArtDataset(options.trainingdir, options.image_size, cachedir=options.cachedir)
    model = wikiart.make_classifier(options.architecture, len(dataset.classes), options.image_size)
    model.load_pretrained(options.pretrained)
    loader = batches.Batches(dataset.images, dataset.labels, device)
    described = features.compute(model.to(device), loader, torch.arange(len(dataset)), dataset.pixel_file)
    copies = duplicates.groups_of(dataset, duplicates.grey_fingerprints(dataset.images))
    figures = {"machine": machine(device)}
    for seed in given.seeds:
        labels, changed = change(dataset.labels, given.share, seed)
        found = []
        taken = seconds(
            lambda labels=labels, found=found, seed=seed: found.append(
                suspects.predict_out_of_fold(described, labels, copies, model.has_statistics, seed)
            )
        )
        probabilities, number = found[0].numpy(), int(changed.sum())
        order = suspects.rank(probabilities, labels.numpy())
        own = probabilities[np.arange(len(labels)), labels]
        theirs = find_label_issues(labels.numpy(), probabilities, return_indices_ranked_by="self_confidence")
        figures[f"seed {seed}"] = {
            "share of changed labels among the first": float(changed[order[:number]].mean()),
            "average precision": float(average_precision_score(changed, -own)),
            "cleanlab: share among its first": float(changed[theirs[:number]].sum() / number),
            "cleanlab: found": len(theirs),
            "cleanlab: precision; recall": [float(changed[theirs].mean()), float(changed[theirs].sum() / number)],
            "seconds": taken,
        }
    report(figures, given.json)


if __name__ == "__main__":
    main()
