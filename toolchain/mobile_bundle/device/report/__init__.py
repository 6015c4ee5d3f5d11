"""The result of all runs: cells, verdict, baseline; as JSON, as text and as a page."""
