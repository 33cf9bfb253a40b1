"""Callbacks of the Trainer, the evaluator and Hydra, one per file."""
