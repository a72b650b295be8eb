"""Bundles: one model as files, with publication, opening and listing."""
