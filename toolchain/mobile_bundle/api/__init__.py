"""The Python API, on which the command line is built: builds, bundles, loaded models, estimates.

`import mobile_bundle` gives the names (docs/PYTHON.md). Nothing is loaded before it is used."""
