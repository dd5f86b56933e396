"""What people look at: heatmaps, clusters."""
