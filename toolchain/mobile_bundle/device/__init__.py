"""Devices that adb reaches: what they are, a bundle on them, what running it costs, and whether that was promised.

`transport`: the way to a device. `measuring`: programs run there, each run with its figures. `report`: what all runs
came to, judged and shown. `session` conducts them."""
