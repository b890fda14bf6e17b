"""The machine: its caches, cores, files and signals."""
