"""What a bundle will cost, told beforehand."""
