"""From a network's weights to its float32 plan, one module an architecture."""
