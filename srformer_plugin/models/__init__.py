"""Models, registered with fairseq by being imported."""
