"""What networks are made of and what they read: torchvision's networks, levels, description, a PCA, fitted heads."""
