"""Datasets as uint8 images and labels, the split of train, and batches that are functions of (seed, epoch, step)."""
