"""A run's network for others: ONNX, the Hub's layout, and the model card that goes with it."""
