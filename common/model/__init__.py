"""Architectures, what they start from and what of them is trained; weights that check themselves; predictions; Grad-CAM."""
