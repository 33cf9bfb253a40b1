"""Train and measure judges that stop redundant chains of thought (DeepPrune, arXiv 2510.08483)."""

__version__ = "0.2.0"
