"""Bundles: one layer's model as files; published, opened, listed."""
