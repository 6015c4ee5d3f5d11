"""Calibration: what a text says about how much each weight matters. Needs torch (extra `calibrate`)."""
