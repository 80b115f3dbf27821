"""The stages of `Engine.step`, one file each: they combine the parts in motion, association, appearance and others."""
