"""Callbacks of the Trainer, of the evaluator and of Hydra: one thin callback a file."""
