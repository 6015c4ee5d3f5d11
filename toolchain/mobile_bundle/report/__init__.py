"""What bundles of one model cost and lose, side by side: one page for people, one JSON for programs."""
