"""What a person reads: tables in the terminal, the figure, the W&B run."""
