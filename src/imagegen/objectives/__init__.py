"""Formulas without weights: losses, likelihoods, noise schedules, samplers."""
