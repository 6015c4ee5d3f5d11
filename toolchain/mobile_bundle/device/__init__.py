"""Device tests over adb: what a device is, how a bundle runs there, what that costs, and whether the predictions hold.

`transport`: the way to a device. `measuring`: programs that run there, and the figures of each run. `report`: all runs,
judged and shown. `session` conducts them."""
