"""A run's folder: its files' names and types, its status, its lock; and finding a run."""
