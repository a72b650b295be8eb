"""Fits that several recipes share: calibration, fusion, trees as arrays."""
