"""The versioned model store: bundles, releases, one pointer a tenant; proof before decode."""
