"""Scores of generated images: feature networks, Fréchet distance, Inception Score."""
