"""The tracks themselves: their state as arrays, and their birth, confirmation, loss and end."""
