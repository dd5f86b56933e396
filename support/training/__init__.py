"""What a training needs around its loop: balancing, batches, augmentation, checkpoints, history, epochs, the run."""
