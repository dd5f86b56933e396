"""What any program needs: signals, processes, messages, files, locks, settings, devices, workers, plotting."""
