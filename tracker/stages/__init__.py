"""The stages of `Engine.step`, a file each: they join what the folders of motion, appearance and the others offer."""
