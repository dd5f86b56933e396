"""What people look at: heatmaps, clusters, the report and the pictures of part 1."""
