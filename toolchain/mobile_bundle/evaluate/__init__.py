"""How good a bundle is: perplexity on a text."""
