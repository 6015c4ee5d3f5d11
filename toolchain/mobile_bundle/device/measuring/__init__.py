"""Programs run on a device: what is run, how each run ended, and what it cost."""
