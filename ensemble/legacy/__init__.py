"""The four model files of the older Axon Engine.

Read behind a guard, converted to arrays, and written again.
"""
