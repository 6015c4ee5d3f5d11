"""What all runs came to: cells, verdict, baseline; as JSON, as text and as a page."""
