"""Part 1: train a network that names the style of a painting.

Writes the checkpoint (wikiart.pth) and the curves (training_part1.png) into outputdir. Interrupted, the same command
goes on from the last finished epoch.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import wikiart
from support import balance, batches, checkpoints, console, devices, figures, processes, settings, training

LABEL_SMOOTHING = 0.1
TRUNK_FACTOR = 0.1  # pretrained layers learn at this share of the head's learning rate


@console.script
def main(argv: list[str] | None = None) -> None:
    """Read settings, make dataset and network, train, write the files."""
    options = settings.read("classifier", __doc__, argv, settings.FRESH)
    device = devices.start(options)

    dataset = wikiart.open_dataset(options, "trainingdir")
    wikiart.warn_of_twins(dataset)
    members, held_out = balance.split(dataset.labels, options.validation, options.seed)
    plan = None
    if options.imbalance == "smote":
        plan = balance.plan_smote(dataset.images, dataset.labels, members, options.smote_target, options.seed)
    paintings = batches.Paintings(dataset, device, plan)
    console.say(f"{len(members):,} paintings to train on, {len(held_out):,} held out, {len(dataset.classes)} styles")
    if plan is not None:
        labels = torch.cat([dataset.labels[members], plan.label])
        counts = zip(dataset.classes, torch.bincount(labels, minlength=len(dataset.classes)).tolist(), strict=True)
        console.say(f"SMOTE adds {len(plan.label):,}: " + ", ".join(f"{style} {count}" for style, count in counts))

    model = wikiart.build_classifier(options, len(dataset.classes)).to(device, memory_format=torch.channels_last)
    if options.pretrained is False or options.architecture in wikiart.OWN_NETWORKS:
        mean, std = batches.measure_pixels(dataset.images, members)
    else:
        mean, std = wikiart.IMAGENET_MEAN, wikiart.IMAGENET_STD
    size = f"{options.image_size} x {options.image_size} pixels"
    console.say(f"{options.architecture}: {sum(p.numel() for p in model.parameters()):,} parameters, {size}")

    def order_of(epoch: int) -> Tensor:
        return balance.index_order(options.imbalance, dataset.labels, members, plan, options.seed, epoch)

    def loss_of(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        logits = model(batches.normalise(batches.augment(images), mean, std))
        return F.cross_entropy(logits.float(), labels, label_smoothing=LABEL_SMOOTHING)

    def validate(model: nn.Module) -> dict[str, float]:
        if not len(held_out):
            return {}
        styles = len(dataset.classes)
        confusion, loss = torch.zeros(styles**2, device=device), torch.zeros((), device=device)
        for images, labels in paintings.batches(held_out, options.batch_size):
            logits = wikiart.classify(model, images, mean, std)
            confusion.index_add_(0, labels * styles + logits.argmax(1), torch.ones(len(labels), device=device))
            loss += F.cross_entropy(logits, labels, reduction="sum")
        confusion = processes.total(confusion).view(styles, styles).cpu()
        right, actual, predicted = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
        f1 = (2 * right / (actual + predicted).clamp(min=1))[actual > 0]
        return {
            "validation_loss": processes.total(loss).item() / len(held_out),
            "accuracy": right.sum().item() / len(held_out),
            "macro_f1": f1.mean().item(),
        }

    facts = {"architecture": options.architecture, **checkpoints.describe(options, dataset, mean, std)}
    factor = TRUNK_FACTOR if options.pretrained is not False else 1.0
    history = training.train(options, 1, facts, model, paintings, order_of, loss_of, validate, "macro_f1", factor)
    panels = {"cross-entropy": ["training_loss", "validation_loss"], "share of validation": ["accuracy", "macro_f1"]}
    title = f"Training of {options.architecture} on {len(members):,} paintings"
    figures.draw_history(history, panels, title, options.output("training_part1.png"))


if __name__ == "__main__":
    main()
