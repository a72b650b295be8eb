"""Events become feature vectors: named, ordered, finite."""
