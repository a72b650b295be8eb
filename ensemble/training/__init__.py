"""Training: labelled rows in, a fitted and calibrated model with metrics and golden answers out."""
