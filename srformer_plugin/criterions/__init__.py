"""Training losses for fairseq's trainer."""
