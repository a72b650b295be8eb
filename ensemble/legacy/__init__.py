"""The four model files of the older Axon Engine: read behind a guard, converted to arrays, and written again."""
