"""The way to a device over adb: a shell, files in both directions, and what the device is."""
