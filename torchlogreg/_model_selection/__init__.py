"""Cross-validation and grid search, with all models of a grid in one solve."""
