"""What Python programs use, and the command line with them: builds, bundles, loaded models, estimates.

`import mobile_bundle` gives the names (docs/PYTHON.md); nothing of it is loaded before it is used."""
