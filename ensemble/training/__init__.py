"""Recipes.

Labelled rows in, a fitted and calibrated layer with its metrics and golden vectors out.
"""
