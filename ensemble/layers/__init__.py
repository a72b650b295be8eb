"""The detectors. Each turns a batch of events into calibrated scores, higher is worse."""
