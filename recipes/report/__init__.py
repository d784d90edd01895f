"""Reports: what experiments scored and how they learned (`python -m recipes.report`), and the page of the demo."""
