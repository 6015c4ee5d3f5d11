"""Planning: which codec for which tensor, at what cost, under which budget."""
