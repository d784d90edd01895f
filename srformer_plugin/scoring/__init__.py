"""Scores of summaries: ROUGE (`rouge`), intervals and tests (`statistics`), and `srformer-score` (`cli`)."""
