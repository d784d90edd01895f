"""The attention in ordinary PyTorch operations: any device, any dtype."""
