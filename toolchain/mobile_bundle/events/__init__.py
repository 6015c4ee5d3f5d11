"""The protocol of mobile-run and mobile-watch: one JSON object a line. events.schema.json says what is in each.

`kinds` has a dataclass per event, `parse` reads lines into them; nothing else in the toolchain reads these lines."""
