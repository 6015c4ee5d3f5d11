"""Programs of other runtimes that share a bundle's weights.ptd."""
