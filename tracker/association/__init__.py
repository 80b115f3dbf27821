"""Parts of data association: candidate pairs, costs, and the Hungarian assignment."""
