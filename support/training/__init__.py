"""What a training needs around its loop: balancing, batches, checkpoints, resuming, history, the run."""
