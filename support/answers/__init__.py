"""What people look at: the report, heatmaps, pictures of both parts, clusters, similar paintings."""
