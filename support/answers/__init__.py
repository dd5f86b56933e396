"""What people look at: provenance, the report, heatmaps, pictures, clusters, similar paintings, the map."""
