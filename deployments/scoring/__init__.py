"""The application `axon`: one threat score per event over HTTP."""
