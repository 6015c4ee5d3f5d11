"""Reading files that others wrote, within bounds, and writing files and folders that appear whole or not at all."""
