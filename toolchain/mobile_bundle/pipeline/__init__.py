"""The stages of a build: from a checkpoint to a bundle."""
