"""Results for people: tables in the terminal, figures, the W&B run."""
