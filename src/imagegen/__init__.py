"""Train, score and compare image generators."""

__version__ = "0.1.0"
