"""The half of Axon that computes.

Events in, one honest threat score out. Pure Python, numpy, scikit-learn and torch; no Ray, no HTTP.
"""
