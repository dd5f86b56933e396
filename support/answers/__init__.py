"""What people look at: provenance, the report, heatmaps, pictures of both parts, clusters, similar paintings, the map."""
