"""The commands, one file each: an argument parser and what to print. The work is done elsewhere."""
