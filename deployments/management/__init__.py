"""The application `axon-models`: train, publish, promote and delete models over HTTP."""
