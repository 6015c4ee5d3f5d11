"""Programs for other runtimes, made from the weights.ptd of a bundle. Each needs its own extra dependencies."""
