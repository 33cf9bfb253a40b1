"""Train a judge, then sweep pruning policies with it: ``python train.py --help``."""

from deepprune.cli import train

if __name__ == "__main__":
    train()
