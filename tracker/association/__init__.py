"""Which detection belongs to which track: costs, gates, assignment, and the uses A and B of the metric."""
