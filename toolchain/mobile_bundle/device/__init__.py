"""Devices that adb reaches: what they are, a bundle on them, what running it costs, and whether that was promised."""
