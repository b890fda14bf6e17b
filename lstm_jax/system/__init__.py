"""The machine: its caches, cores, files, packages and signals."""
