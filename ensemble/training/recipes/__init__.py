"""Training recipes, one file a model."""
