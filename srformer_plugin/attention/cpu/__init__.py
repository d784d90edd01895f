"""The attention as loops over visits for training on a CPU."""
