"""What a training needs around its loop: balancing, batches, augmentation, checkpoints, resuming, history, the run."""
