"""Part 1: train a network that predicts the style of a painting.

Writes the checkpoint (wikiart.pth), what the next run resumes from (wikiart.resume.pth), history_part1.csv and the
curves (training_part1.png) into outputdir. After an interruption, the same command resumes after the last finished
epoch; with a larger --epochs it trains further.
"""

if __name__ == "__main__":
    from support.system import signals

    signals.quiet_ctrl_c()

import torch
import torch.nn.functional as F
from torch import Tensor

import wikiart
from support.networks import features, heads
from support.paintings import duplicates
from support.system import console, devices, processes, settings
from support.system.console import DataError
from support.training import augmentation, balance, batches, checkpoints, resume, runs

FINE_TUNING = 0.05  # share of the learning rate at which pretrained layers learn, and the head fitted to them


@console.script
def main(argv: list[str] | None = None) -> None:
    """Read the settings, make dataset and network, train, write the files."""
    options = settings.read("classifier", __doc__, argv, settings.FRESH)
    device = devices.start(options)
    check_settings(options)
    model = make_model(options)  # before the paintings are decoded: its size and its weights have to fit
    with options.checking("trainingdir", DataError):
        dataset = wikiart.WikiArtDataset(options.trainingdir, options.image_size, cachedir=options.cachedir)
        balance.check_styles(dataset.counts)
    duplicates.warn_of_contradictions(dataset.paths, dataset.labels, dataset.fingerprints)
    thumbnails = duplicates.grey_fingerprints(dataset.images)
    copies = duplicates.groups_of(dataset, thumbnails)
    members, held_out = balance.split(dataset.labels, options.validation, options.seed, copies)
    console.say(f"{len(members):,} paintings to train on, {len(held_out):,} held out, {len(dataset.classes)} styles")
    model.head = model.new_head(len(dataset.classes))
    model.to(device, memory_format=torch.channels_last)
    say_network(model)

    metadata = checkpoints.metadata(options, 1, dataset, thumbnails)
    peak_factor = FINE_TUNING if options.pretrained else 1.0
    with runs.Run(options, model, device, metadata, "validation_loss", peak_factor, model.has_statistics) as run:
        if run.is_finished():
            return
        plan = make_plan(options, dataset, members) if options.imbalance == "smote" else None
        loader = batches.Batches(dataset.images, dataset.labels, device, plan)
        if not options.pretrained and not run.progress.rows:
            model.normalize.fit(dataset.images, members)
        elif not run.progress.done():
            inputs, labels = fitting_data(model, loader, members, dataset.pixel_file)
            if not run.progress.rows:
                model.fitted = fit_head(model, inputs, labels, options.imbalance)
                run.add("fitted", validate(model, loader, held_out, options.batch_size), "fitted the head")
            if options.epochs:  # a start that suits the trunk (Kumar et al., 2022, arXiv:2202.10054)
                start = fit_head(model, inputs[:, : model.width], labels, options.imbalance)
                model.head.load_state_dict(start.state_dict())

        model.fitted = None  # from here on the head that is trained answers
        for epoch in run.epochs():
            order = balance.index_order(options.imbalance, dataset.labels, members, plan, options.seed, epoch.number)
            for images, labels in epoch.batches(loader, order, options.batch_size):  # sets the learning rate
                images = augmentation.crop_and_flip(images, model.crop_side)
                with devices.autocast(device):
                    loss = wikiart.classifier_loss(epoch.network, images, labels)
                epoch.step(loss)  # backward pass and optimizer
            run.end_epoch(epoch, validate(model, loader, held_out, options.batch_size))
        if run.is_fit_due():
            # On whole paintings, a logistic regression is a better last layer than gradient steps on crops.
            model.fitted = fit_head(model, *fitting_data(model, loader, members), options.imbalance)
            run.add("fitted", validate(model, loader, held_out, options.batch_size), "fitted the head")

        panels = {
            "cross-entropy": {
                "training_loss": f"training (augmented, label smoothing, {options.imbalance})",
                "validation_loss": "validation (plain)",
            },
            "share of the held-out paintings": {"validation_accuracy": "accuracy", "validation_macro_f1": "macro F1"},
        }
        run.finish(panels, f"Training of {options.architecture} on {len(members):,} paintings")


def check_settings(options: settings.Settings) -> None:
    """Find settings that cannot work before the paintings are decoded, which can take long."""
    if not options.pretrained and not options.epochs:
        raise options.error("epochs", "got 0, which only fits a head to a pretrained trunk; set pretrained")
    resume.check_paths(options, 1)


def make_model(options: settings.Settings) -> wikiart.Classifier:
    """The classifier of the settings, with random or pretrained weights; of one class until there are more."""
    with options.checking("architecture"):
        model = wikiart.make_classifier(options.architecture, 1, options.image_size)
    if options.pretrained:
        with options.checking("pretrained"):
            model.load_pretrained(options.pretrained)
    return model


def say_network(model: wikiart.Classifier) -> None:
    """Print a network's size, and what of a painting it is trained on."""
    parameters, side = sum(parameter.numel() for parameter in model.parameters()), model.image_size
    seen = "whole paintings" if model.crop_side == side else f"crops of {model.crop_side} x {model.crop_side}"
    console.say(f"{model.architecture}: {parameters:,} parameters, {side} x {side} pixels, trained on {seen}")


def make_plan(options: settings.Settings, dataset: wikiart.WikiArtDataset, members: Tensor) -> balance.SmotePlan:
    """The synthetic paintings of SMOTE; prints how many paintings each style has with them."""
    plan = balance.plan_smote(dataset.images, dataset.labels, members, options.smote_target, options.seed)
    counts = torch.bincount(torch.cat([dataset.labels[members], plan.label]), minlength=len(dataset.classes))
    texts = [f"{style} {count}" for style, count in zip(dataset.classes, counts.tolist(), strict=True)]
    console.say(f"SMOTE adds {len(plan.label):,} paintings; with them: {', '.join(texts)}")
    return plan


def fitting_data(
    model: wikiart.Classifier, loader: batches.Batches, members: Tensor, pixel_file: str | None = None
) -> tuple[Tensor, Tensor]:
    """What a head is fitted to: `all_features` of whole paintings, float32 [M, F], and labels; SMOTE's come last.

    pixel_file: see `features.compute`.
    """
    taken = torch.cat([members, torch.arange(len(loader.images), len(loader))])
    console.say(f"fitting the head to {len(taken):,} paintings")
    return features.compute(model, loader, taken, pixel_file), loader.labels.cpu()[taken]


def fit_head(model: wikiart.Classifier, inputs: Tensor, labels: Tensor, imbalance: str) -> heads.Head:
    """A logistic regression, on the model's device; with "weighted_sampler" all styles have the same weight."""
    classes = model.head.linear.out_features
    head = heads.fit(inputs, labels, classes, imbalance == "weighted_sampler", model.has_statistics)
    return head.to(model.normalize.mean.device)


def validate(model: wikiart.Classifier, loader: batches.Batches, held_out: Tensor, batch_size: int) -> dict[str, float]:
    """Cross-entropy (no label smoothing), accuracy and macro F1 of the held-out paintings; empty if there are none.

    Macro F1 is the mean over the styles that have held-out paintings.
    """
    if not len(held_out):
        return {}
    device, styles = loader.device, model.head.linear.out_features
    confusion, loss = torch.zeros(styles**2, device=device), torch.zeros((), device=device)  # rows: true styles
    for images, labels in loader.batches(held_out, batch_size):
        logits = wikiart.classify(model, images)
        confusion.index_add_(0, labels * styles + logits.argmax(1), torch.ones(len(labels), device=device))
        loss += F.cross_entropy(logits, labels, reduction="sum")
    confusion = processes.total(confusion).view(styles, styles).cpu()
    correct, actual, predicted = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
    f1 = (2 * correct / (actual + predicted).clamp(min=1))[actual > 0]
    return {
        "validation_loss": processes.total(loss).item() / len(held_out),
        "validation_accuracy": correct.sum().item() / len(held_out),
        "validation_macro_f1": f1.mean().item(),
    }


if __name__ == "__main__":
    main()
