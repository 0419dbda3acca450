"""A sweep file of W&B, run on this machine by Optuna."""
