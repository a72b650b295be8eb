"""The half of Axon that moves bytes: Ray Serve, HTTP and the terminal. It contains no detection."""
