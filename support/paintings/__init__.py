"""From a folder to uint8 images, and what is known of them: formats, folders, cache, artists, copies."""
