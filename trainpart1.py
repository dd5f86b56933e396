"""Part 1: train a network that predicts the style of a painting.

Writes the checkpoint (wikiart.pth), history_part1.csv and the curves (training_part1.png) into outputdir. After an
interruption, the same command goes on from the last finished epoch; with a larger --epochs it trains further.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

import wikiart
from support import (
    balance,
    batches,
    checkpoints,
    console,
    devices,
    duplicates,
    figures,
    history,
    processes,
    settings,
    training,
)
from support.console import DataError

TRUNK_FACTOR = 0.1  # pretrained layers learn at this share of the head's learning rate


@console.script
def main(argv: list[str] | None = None) -> None:
    """Read the settings, make dataset and network, train, write the files."""
    options = settings.read("classifier", __doc__, argv, settings.FRESH)
    device = devices.start(options)

    with options.blame("trainingdir", DataError):
        dataset = wikiart.WikiArtDataset(options.trainingdir, options.image_size, cachedir=options.cachedir)
        if len(dataset.classes) < 2:
            raise DataError(f"only one style, {console.quoted(dataset.classes[0])}; expected a folder for each of them")
    duplicates.warn_of_contradictions(dataset.paths, dataset.labels, dataset.fingerprints)
    members, held_out = balance.split(dataset.labels, options.validation, options.seed, dataset.fingerprints)
    console.say(f"{len(members):,} paintings to train on, {len(held_out):,} held out, {len(dataset.classes)} styles")
    plan = None
    if options.imbalance == "smote":
        plan = balance.plan_smote(dataset.images, dataset.labels, members, options.smote_target, options.seed)
        counts = torch.bincount(torch.cat([dataset.labels[members], plan.label]), minlength=len(dataset.classes))
        texts = [f"{style} {count}" for style, count in zip(dataset.classes, counts.tolist(), strict=True)]
        console.say(f"SMOTE adds {len(plan.label):,}: {', '.join(texts)}")
    loader = batches.Batches(dataset.images, dataset.labels, device, plan)

    with options.blame("architecture"):
        model = wikiart.make_classifier(options.architecture, len(dataset.classes), options.image_size)
    if options.pretrained:
        with options.blame("pretrained"):
            model.load_pretrained(options.pretrained)
    else:
        model.normalize.measure(dataset.images, members)
    model = model.to(device, memory_format=torch.channels_last)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    console.say(
        f"{options.architecture}: {parameters:,} parameters, {options.image_size} x {options.image_size} pixels"
    )

    picture = options.output("training_part1.png")
    contents = checkpoints.describe(options, 1, dataset)
    trunk_factor = TRUNK_FACTOR if options.pretrained else 1.0
    with training.Run(options, model, device, contents, "validation_loss", trunk_factor) as run:
        if run.is_finished() and picture.exists():
            return
        for epoch in run.epochs():
            order = balance.index_order(options.imbalance, dataset.labels, members, plan, options.seed, epoch)
            for images, labels in run.batches(loader, order):
                with devices.autocast(device):
                    loss = wikiart.classifier_loss(run.network, batches.augment(images), labels)
                run.step(loss)
            run.end_epoch(validate(model, loader, held_out, len(dataset.classes), options.batch_size))

    panels = {
        "cross-entropy": {
            "training_loss": "training (augmented, balanced, smoothed)",
            "validation_loss": "validation (plain)",
        },
        "share of the held-out paintings": {"accuracy": "accuracy", "macro_f1": "macro F1"},
    }
    title = f"Training of {options.architecture} on {len(members):,} paintings"
    with figures.drawing(picture.name):
        history.draw(run.history, panels, title, picture)


def validate(
    model: wikiart.Classifier, loader: batches.Batches, held_out: Tensor, styles: int, batch_size: int
) -> dict[str, float]:
    """Cross-entropy, accuracy and macro F1 of the held-out paintings; nothing where none are held out."""
    if not len(held_out):
        return {}
    device = loader.labels.device
    confusion, loss = torch.zeros(styles**2, device=device), torch.zeros((), device=device)
    for images, labels in loader.batches(held_out, batch_size):
        logits = wikiart.classify(model, images)
        confusion.index_add_(0, labels * styles + logits.argmax(1), torch.ones(len(labels), device=device))
        loss += F.cross_entropy(logits, labels, reduction="sum")
    confusion = processes.total(confusion).view(styles, styles).cpu()
    correct, actual, predicted = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
    f1 = (2 * correct / (actual + predicted).clamp(min=1))[actual > 0]
    return {
        "validation_loss": processes.total(loss).item() / len(held_out),
        "accuracy": correct.sum().item() / len(held_out),
        "macro_f1": f1.mean().item(),
    }


if __name__ == "__main__":
    main()
