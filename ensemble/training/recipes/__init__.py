"""Training recipes: one a model."""
