"""Tables of samples, the order in which training sees them, and what it does to their pixels."""
