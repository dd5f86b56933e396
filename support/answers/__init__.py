"""What people look at: heatmaps, clusters, similar paintings, pictures of part 2."""
