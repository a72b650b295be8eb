"""The second look: events that only a part of the ensemble saw wait on disk until more of it is there."""
