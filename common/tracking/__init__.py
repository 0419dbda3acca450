"""Weights & Biases: the only room that imports its client."""
