"""The half of Axon that computes: events in, one threat score out.

Python, numpy, scikit-learn and torch; no Ray and no HTTP.
"""
