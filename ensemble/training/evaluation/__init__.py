"""Evaluation of trained models: metrics, model cards, charts."""
