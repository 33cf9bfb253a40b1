"""One question pruned while its traces are generated."""
