"""Healing: trains a model with the rounding in place, so that it stays good at two bits and below. Needs torch (extra
`heal`)."""
