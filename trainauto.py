"""Part 2: train an autoencoder that squeezes a painting into a few numbers and paints it again from them.

Writes the checkpoint (autoencoder.pth) and the curves (training_auto.png) into outputdir. Interrupted, the same command
goes on from the last finished epoch. Style labels only keep the held-out paintings balanced; training never sees them.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import wikiart
from support import balance, batches, checkpoints, console, devices, figures, processes, settings, training

SMALLEST_CROP = 0.8  # share of a painting's area that augmentation keeps at least
STATISTICS_WEIGHT = 0.004  # of the statistics' squared error (1 for a constant guess) against the pixels' MSE


@console.script
def main(argv: list[str] | None = None) -> None:
    """Read settings, make dataset and network, train, write the files."""
    options = settings.read("autoencoder", __doc__, argv, settings.FRESH)
    if options.image_size % 16:
        problem = f"found {options.image_size}, meant a multiple of 16, since the autoencoder halves images four times"
        raise options.error("image_size", problem)
    device = devices.start(options)

    dataset = wikiart.open_dataset(options, "trainingdir")
    members, held_out = balance.split(dataset.labels, options.validation, options.seed)
    paintings = batches.Paintings(dataset, device)
    console.say(f"{len(members):,} paintings to train on, {len(held_out):,} held out, {len(dataset.classes)} styles")

    model = wikiart.Autoencoder(options.image_size, options.latent_dim)
    if processes.rank() == 0:  # training begins with the first process's network in all of them
        model.start_from(wikiart.fit_pca(dataset.images, members, options.latent_dim, options.seed))
    model = model.to(device, memory_format=torch.channels_last)
    console.say(
        f"autoencoder: {sum(p.numel() for p in model.parameters()):,} parameters, "
        f"{options.image_size} x {options.image_size} pixels in {options.latent_dim} numbers"
    )
    measured = torch.zeros(2, device=device)  # this epoch's sum of the batches' MSE, and how many batches

    def order_of(epoch: int) -> Tensor:
        return balance.index_order("none", dataset.labels, members, None, options.seed, epoch)

    def loss_of(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        images = batches.augment(images, SMALLEST_CROP)
        pictures, statistics_error = model(images)
        mse = F.mse_loss(pictures, images)
        measured.add_(torch.stack([mse.detach(), torch.ones_like(mse)]))
        return mse + STATISTICS_WEIGHT * statistics_error.square().sum(1).mean()

    def validate(model: nn.Module) -> dict[str, float]:
        total, steps = processes.total(measured).tolist()
        measured.zero_()
        row = {"training_mse": total / steps}
        if len(held_out):
            error = torch.zeros((), device=device)
            for images, pictures, _ in wikiart.reconstruct(model, paintings, held_out, options.batch_size):
                error += (pictures - images).square().mean((1, 2, 3)).sum()
            row["validation_mse"] = processes.total(error).item() / len(held_out)
        return row

    mean, std = batches.measure_pixels(dataset.images, members)
    facts = {"latent_dim": options.latent_dim, **checkpoints.describe(options, dataset, mean, std)}
    history = training.train(options, 2, facts, model, paintings, order_of, loss_of, validate, "validation_mse")
    panels = {"mean squared error of pixels in [0, 1]": ["training_mse", "validation_mse"]}
    title = f"Training of the autoencoder on {len(members):,} paintings"
    figures.draw_history(history, panels, title, options.output("training_auto.png"))


if __name__ == "__main__":
    main()
