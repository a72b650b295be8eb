"""Releases and what points to them: pointer, aliases."""
