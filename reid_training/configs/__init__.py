"""Training configurations that come with the package; `reid train --config NAME` finds them here."""
