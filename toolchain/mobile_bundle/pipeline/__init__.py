"""Recipes and the building of bundles."""
