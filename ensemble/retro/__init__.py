"""The second look.

Events that only a part of the ensemble saw wait on disk until more of it is there.
"""
