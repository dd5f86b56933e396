"""Part 2: train an autoencoder that compresses a painting into a small latent vector and reconstructs it.

Writes the checkpoint (autoencoder.pth), what the next run resumes from (autoencoder.resume.pth), history_auto.csv and
the curves (training_auto.png) into outputdir. After an interruption, the same command resumes after the last finished
epoch; with a larger --epochs it trains further. Style labels only stratify the held-out paintings; training never sees
them.
"""

if __name__ == "__main__":
    from support.system import signals

    signals.quiet_ctrl_c()

import torch
from torch import Tensor

import wikiart
from support.networks import discriminant, features, pca
from support.paintings import duplicates
from support.system import console, devices, processes, settings
from support.system.console import DataError
from support.training import augmentation, balance, batches, checkpoints, resume, runs


@console.script
def main(argv: list[str] | None = None) -> None:
    """Read the settings, make dataset and network, train, write the files."""
    options = settings.read("autoencoder", __doc__, argv, settings.FRESH)
    device = devices.start(options)
    resume.check_paths(options, 2)
    model = make_model(options)  # before the paintings are decoded: its size and its weights have to fit
    with options.checking("trainingdir", DataError):
        dataset = wikiart.WikiArtDataset(options.trainingdir, options.image_size, cachedir=options.cachedir)
        balance.check_styles(dataset.counts)
    thumbnails = duplicates.grey_fingerprints(dataset.images)
    copies = duplicates.groups_of(dataset, thumbnails)
    members, held_out = balance.split(dataset.labels, options.validation, options.seed, copies)
    console.say(f"{len(members):,} paintings to train on, {len(held_out):,} held out, {len(dataset.classes)} styles")
    model.to(device, memory_format=torch.channels_last)
    parameters = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    size = f"{options.image_size} x {options.image_size} pixels"
    console.say(f"autoencoder: {parameters:,} parameters, {size} in a latent of {options.latent_dim}")

    metadata = checkpoints.metadata(options, 2, dataset, thumbnails)
    with runs.Run(options, model, device, metadata, "validation_mse") as run:
        if run.is_finished():
            return
        loader = batches.Batches(dataset.images, dataset.labels, device)
        if not run.progress.rows:
            described = features.compute(model.description, loader, members, dataset.pixel_file)
            if processes.rank() == 0:
                components = pca.fit_pca(dataset.images, members, options.latent_dim, options.seed)
                arguments = model.description, described, dataset.images, members, model.style_dim, options.seed
                model.start_from(components, discriminant.fit(*arguments))
            processes.copy_from_first(model)
            metrics = validate(model.eval(), loader, held_out, options.batch_size)
            run.add("start", metrics, "fitted a PCA and a discriminant to start from")
        for epoch in run.epochs():
            order = balance.index_order("none", dataset.labels, members, None, options.seed, epoch.number)
            for images, _ in epoch.batches(loader, order, options.batch_size):
                whole = augmentation.crop_and_flip(images, options.image_size)  # half of them flipped
                with devices.autocast(device):
                    loss = wikiart.autoencoder_loss(epoch.network, whole)
                epoch.step(loss)
            run.end_epoch(epoch, validate(model, loader, held_out, options.batch_size))

        lines = {"training_loss": "training", "validation_mse": "validation"}
        panels = {"mean squared error of pixels in [0, 1]": lines}
        run.finish(panels, f"Training of the autoencoder on {len(members):,} paintings")


def make_model(options: settings.Settings) -> wikiart.Autoencoder:
    """The autoencoder of the settings, whose description has a pretrained trunk where they name one."""
    if (options.architecture == "none") != (options.pretrained is False):
        raise options.error("architecture", 'expected "none" without pretrained, and a network with it')
    with options.checking("architecture"):
        model = wikiart.Autoencoder(options.image_size, options.latent_dim, options.architecture)
    if options.pretrained:
        with options.checking("pretrained"):
            model.description.load_pretrained(options.pretrained)
    return model


@torch.no_grad()
def validate(
    model: wikiart.Autoencoder, loader: batches.Batches, held_out: Tensor, batch_size: int
) -> dict[str, float]:
    """The MSE of the held-out paintings' reconstructions; empty if there are none."""
    if not len(held_out):
        return {}
    error = torch.zeros((), device=loader.device)
    for images, _ in loader.batches(held_out, batch_size):
        error += (model(images).clamp(0, 1) - images).square().mean((1, 2, 3)).sum()
    return {"validation_mse": processes.total(error).item() / len(held_out)}


if __name__ == "__main__":
    main()
