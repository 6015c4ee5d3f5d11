"""Compares bundles of one model: what they cost and lose. One page for people, one JSON for programs."""
